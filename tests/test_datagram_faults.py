"""What peers, the kernel and operators do to a server of datagrams, and what it makes of it."""

import contextlib
import json
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from signal import SIGKILL, SIGTERM
from typing import Any

import pytest

from tests.support import clients, processes
from tests.support.faults import frozen, injecting, lines_of
from tests.support.modes import DATAGRAM_KINDS, ECHO, MODE, MODES, MOSTLY_PLAIN, Kind, Mode
from tests.support.requirements import requires_ipv6
from tests.support.server import Server, handler, run_command, running, starting
from tests.support.waiting import becomes, eventually, settled

UDP = "udp://127.0.0.1:0"
OWN, FUNCTION, REQUEST, BASE = DATAGRAM_KINDS
ACT = OWN.acts
ONE = ("prefork", "-w", "1")  # one worker, so that what comes first is served first

mostly_plain = pytest.mark.parametrize("mode", MOSTLY_PLAIN)
in_one_plainly = pytest.mark.parametrize(
    "mode",
    [
        pytest.param(mode, id=mode.name, marks=() if mode.name == "prefork" else pytest.mark.heavy)
        for mode in MODES
    ],
)
every_transport = pytest.mark.parametrize("transport", ["udp", "unixgram"])
every_kind = pytest.mark.parametrize("kind", DATAGRAM_KINDS, ids=[k.name for k in DATAGRAM_KINDS])


def address_of(transport: str, folder: Path) -> str:
    """Return an address to listen on."""
    return UDP if transport == "udp" else f"unixgram://{folder}/s"


def family_pids(server: Server) -> list[int]:
    """Return the numbers of all its processes but the one that owns the sockets."""
    return [process.pid for process in server.family()]


# -- larger than the handler takes (F123)


@every_transport
@pytest.mark.parametrize("name", ["Size", "size"])
@in_one_plainly
def test_cut_datagram_says_so(name: str, transport: str, mode: Mode, tmp_path: Path) -> None:
    """Of a datagram above `max_size` our handlers get so much, and are told (F123)."""
    address = f"{address_of(transport, tmp_path)}?max_size=1000"
    target = handler(f"datagrams.py:{name}")
    with running(target, *mode.arguments, address=address) as server:
        assert clients.ask_datagram(server.address, bytes(3000)) == "1000 True"
        assert clients.ask_datagram(server.address, bytes(1000)) == "1000 False"
        assert clients.ask_datagram(server.address, b"") == "0 False"
        assert clients.ask_datagram(server.address, bytes(1001)) == "1000 True"


@every_transport
@pytest.mark.parametrize("target", [REQUEST.echo, BASE.echo, handler("datagrams.py:make_udp")])
def test_cut_datagram_is_logged(target: str, transport: str, tmp_path: Path) -> None:
    """A handler that cannot see that a datagram is cut has it said in the log (F123)."""
    address = f"{address_of(transport, tmp_path)}?max_size=1000"
    question = b"echo " + b"x" * 2995
    with (
        running(target, address=address) as server,
        clients.sender(server.address) as client,
    ):
        assert clients.answer(client, question[:1000]).endswith(b"x" * 995)
        assert lines_of(server.stderr_so_far(), "WARNING") == []
        assert clients.answer(client, question).endswith(b"x" * 995)
        server.wait_for_line("WARNING.*longer than 1000 bytes")
        assert clients.answer(client, b"echo fine").endswith(b"fine")


# -- more than the queue has room for (F125)


@contextlib.contextmanager
def standing_still(server: Server) -> Iterator[None]:
    """Let nothing be served until the block ends; it begins when every thread has come to rest."""
    pids, still = settled(lambda: family_pids(server)), {"T", "Z"}
    with frozen(pids):
        threads = [thread for pid in pids for thread in processes.threads(pid)]
        becomes(
            set(), lambda: {one.state for one in map(processes.look_up, threads) if one} - still
        )
        yield


def first_answers(client: socket.socket) -> set[bytes]:
    """Wait until there is room in the queue again, and return what was answered."""
    return {client.recv(100) for _ in range(100)}


@mostly_plain
def test_flood_of_a_server_that_stands_still(mode: Mode) -> None:
    """Lost datagrams are counted and said in the log, and all others are served (F125)."""
    with running(ACT, *mode.arguments, address=UDP) as server:
        with clients.sender(server.address) as client:
            assert clients.answer(client, b"drops") == b"0"
            with standing_still(server):
                for _ in range(10_000):
                    client.send(b"echo flood")
            assert first_answers(client) == {b"flood"}
        drops = int(clients.ask_datagram(server.address, "drops"))
        assert 5000 < drops < 10_000
        with clients.sender(server.address) as client:
            answers = clients.exchange_datagrams(client, [b"echo on"] * 300)
        assert answers == [b"on"] * 300
        assert server.stop() == 0
    said = lines_of(server.stderr_so_far(), f" {drops} datagrams found the queue full")
    assert said


def test_every_datagram_is_served_or_counted() -> None:
    """What a queue had no room for and what was served are together what was sent (F125)."""
    with running(ACT, "iterative", address=UDP) as server, clients.sender(server.address) as client:
        with standing_still(server):
            for _ in range(2000):
                client.send(b"echo flood")
        assert first_answers(client) == {b"flood"}
        drops = int(clients.ask_datagram(server.address, "drops"))
        acted = int(clients.ask_datagram(server.address, "acted"))
        assert drops > 0
        assert drops + acted - 2 == 2000
        server.wait_for_line(f" {drops} datagrams found the queue full")


def test_longer_queue() -> None:
    """`receive_buffer` makes the queue longer: what else is lost waits there (F125)."""
    address = f"{UDP}?receive_buffer=1000000"
    with running(ACT, *ONE, address=address) as server, clients.sender(server.address) as client:
        assert int(clients.answer(client, b"buffer")) == 2_000_000
        with standing_still(server):
            for _ in range(1000):
                client.send(b"echo flood")
        assert clients.ask_datagram(server.address, "drops") == "0"
        assert clients.ask_datagram(server.address, "acted") == "1003"


def test_longer_queue_of_a_unix_socket(tmp_path: Path) -> None:
    """`receive_buffer` is for Unix sockets too."""
    address = f"unixgram://{tmp_path}/s?receive_buffer=1000000"
    with running(ACT, *ONE, address=address) as server:
        assert clients.ask_datagram(server.address, "buffer") == "2000000"


# -- answers that cannot be sent (F126)

REFUSALS = [
    pytest.param(name, error, id=f"{name}-{error}", marks=() if is_plain else pytest.mark.heavy)
    for name in ("iterative", "thread", "prefork")
    for error in ("EPERM", "ECONNREFUSED", "ENOBUFS", "EAGAIN", "EHOSTUNREACH")
    for is_plain in [name == "prefork" and error == "EPERM"]
]


def unbound(server: Server) -> socket.socket:
    """Return a client that nobody can answer."""
    client = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    client.connect(clients.path_of(server.address))
    return client


def assert_goes_on(server: Server, workers: list[int]) -> None:
    """Fail unless the server answers somebody else, from the same processes."""
    assert clients.ask_datagram(server.address, "echo fine") == "fine"
    assert family_pids(server)[: len(workers)] == workers


@every_transport
@mostly_plain
def test_client_that_has_gone(mode: Mode, transport: str, tmp_path: Path) -> None:
    """A client that does not wait for its answers is nobody's trouble (F126)."""
    address = address_of(transport, tmp_path)
    with running(ACT, *mode.arguments, address=address) as server:
        workers = family_pids(server)[:1]
        for _ in range(5):
            with standing_still(server), clients.sender(server.address) as client:
                client.send(b"echo nobody")
                client.send(b"echo nobody")
            assert_goes_on(server, workers)
    assert lines_of(server.stderr_so_far(), "WARNING|ERROR") == []


@mostly_plain
def test_client_without_an_address(mode: Mode, tmp_path: Path) -> None:
    """A Unix client that nobody can answer is served, and nobody's trouble (F126)."""
    with running(ACT, *mode.arguments, address=f"unixgram://{tmp_path}/s") as server:
        workers = family_pids(server)[:1]
        with unbound(server) as client:
            client.send(b"echo anybody")
            client.send(b"acted")
            assert_goes_on(server, workers)
    assert lines_of(server.stderr_so_far(), "WARNING|ERROR") == []


@pytest.mark.parametrize("kind", [REQUEST, BASE], ids=["datagram-request", "base-request"])
def test_stock_handler_meets_a_client_without_an_address(kind: Kind, tmp_path: Path) -> None:
    """What a stock handler raises for such a client ends its datagram only (F126)."""
    address = f"unixgram://{tmp_path}/s"
    with running(kind.acts, *ONE, address=address, expect="raised|Error") as server:
        workers = family_pids(server)
        with unbound(server) as client:
            client.send(b"echo anybody")
            assert_goes_on(server, workers)


@pytest.mark.parametrize("place", [UDP, "udp://:0"])
@pytest.mark.parametrize(("name", "error"), REFUSALS)
def test_answer_that_the_kernel_refuses(name: str, error: str, place: str) -> None:
    """An answer that cannot be sent is one that is lost, and no more (F126)."""
    call = "sendto" if place == UDP else "sendmsg"
    answers: list[bytes] = []
    with running(ACT, *MODE[name].arguments, "--log-level", "debug", address=place) as server:
        workers = family_pids(server)
        with (
            injecting(workers, f"{call}:error={error}:when=1..3"),
            clients.sender(server.address) as client,
        ):
            for _ in range(12):
                client.send(b"echo answer")

            def account() -> int:
                answers.extend(clients.waiting_datagrams(client))
                lost = lines_of(server.stderr_so_far(), "datagram from .* ended early")
                return len(answers) + len(lost)

            becomes(12, account)
            assert len(answers) < 12
        assert_goes_on(server, workers)
    assert lines_of(server.stderr_so_far(), "WARNING|ERROR") == []


@pytest.mark.parametrize("kind", [REQUEST, BASE], ids=["datagram-request", "base-request"])
def test_answer_of_a_stock_handler_that_the_kernel_refuses(kind: Kind) -> None:
    """A stock handler's error is said, and ends its datagram only (F126)."""
    with running(kind.acts, *ONE, address=UDP, expect="PermissionError") as server:
        workers = family_pids(server)
        with (
            injecting(workers, "sendto:error=EPERM:when=1..3"),
            clients.sender(server.address) as client,
        ):
            for number in range(5):
                client.send(b"echo %d" % number)
            assert {client.recv(100), client.recv(100)} == {b"3", b"4"}
        assert_goes_on(server, workers)


@every_kind
def test_answer_that_is_too_large(kind: Kind) -> None:
    """An answer that no datagram can carry is the handler's fault, and said so (F126)."""
    with running(kind.acts, *ONE, address=UDP, expect="raised OSError|too long") as server:
        workers = family_pids(server)
        with clients.sender(server.address) as client:
            client.send(b"big 70000")
            server.wait_for_line("ERROR.*raised OSError")
            assert_goes_on(server, workers)


def test_unix_client_that_does_not_read(tmp_path: Path) -> None:
    """A Unix client whose queue is full holds up an answer for a second or so (F126)."""
    with (
        running(ACT, *ONE, address=f"unixgram://{tmp_path}/s") as server,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as deaf,
    ):
        workers = family_pids(server)
        deaf.bind(f"{tmp_path}/deaf")
        for _ in range(12):  # one more than its queue takes
            deaf.sendto(b"echo unread", clients.path_of(server.address))
        assert_goes_on(server, workers)
        assert len(clients.waiting_datagrams(deaf)) == 11
        os.unlink(f"{tmp_path}/deaf")
    assert lines_of(server.stderr_so_far(), "WARNING|ERROR") == []


# -- a worker that dies with a datagram in hand (F127)


def chat(address: str, done: threading.Event) -> tuple[int, list[bytes]]:
    """Keep eight questions on their way; return how many were asked, and the answers."""
    asked, given_up = 0, 0
    answers: list[bytes] = []
    with clients.sender(address, 0.3) as client:
        while not done.is_set():
            while asked - len(answers) - given_up < 8:
                client.send(b"%d" % asked)
                asked += 1
            try:
                answers.append(client.recv(100))
            except TimeoutError:
                given_up = asked - len(answers)
        with contextlib.suppress(TimeoutError):
            while True:
                answers.append(client.recv(100))
    return asked, answers


@pytest.mark.heavy
def test_killed_workers_lose_what_they_have_in_hand() -> None:
    """Each worker that is killed costs one datagram at most: the queue is nobody's (F127)."""
    kills, done = 50, threading.Event()
    with (
        running(OWN.echo, *MODE["prefork"].arguments, address=UDP, expect="killed") as server,
        ThreadPoolExecutor(4) as pool,
    ):
        chats = [pool.submit(chat, server.address, done) for _ in range(4)]
        try:
            for _ in range(kills):
                victim = family_pids(server)[0]
                os.kill(victim, SIGKILL)
                eventually(partial(is_replaced, server, victim))
        finally:
            done.set()
        results = [one.result() for one in chats]
    asked, lost = sum(n for n, _ in results), sum(n - len(answers) for n, answers in results)
    print(f"{kills} kills: {asked} asked, {lost} lost")  # noqa: T201
    assert all(len(set(answers)) == len(answers) for _, answers in results)
    assert asked > 20 * kills
    assert lost <= kills
    assert "queue full" not in server.stderr_so_far()


def is_replaced(server: Server, gone: int) -> bool:
    """Tell whether there is another worker in place of one that was killed."""
    pids = family_pids(server)
    return gone not in pids and len(pids) == 2


# -- descriptors that a peer sends (F106)


@mostly_plain
def test_flood_of_descriptors(mode: Mode, tmp_path: Path) -> None:
    """Descriptors beside a datagram are not received, and the datagram is (F106)."""
    count = 1000 if mode.lasting else 200
    with (
        running(OWN.echo, *mode.arguments, address=f"unixgram://{tmp_path}/s") as server,
        clients.sender(server.address) as client,
    ):
        assert clients.answer(client, b"hello") == b"hello"
        lasting = [process.pid for process in server.processes()][: 4 if mode.lasting else 3]
        before = settled(lambda: [len(processes.descriptors(pid)) for pid in lasting])
        for number in range(count):
            socket.send_fds(client, [b"%d" % number], [client.fileno()] * 250)
            assert client.recv(100) == b"%d" % number
        becomes(before, lambda: [len(processes.descriptors(pid)) for pid in lasting])


# -- which address


@pytest.mark.parametrize("target", [ACT, FUNCTION.acts], ids=["datagram", "function"])
@pytest.mark.parametrize("place", ["udp://0.0.0.0:0", "udp://:0"])
@in_one_plainly
def test_answer_comes_from_the_address_that_was_asked(mode: Mode, place: str, target: str) -> None:
    """Bound to every address, a server answers from the one that it was asked at."""
    with running(target, *mode.arguments, address=place) as server:
        for host in ("127.0.0.1", "127.0.0.2", "127.1.2.3"):
            with clients.sender(server.address, 5, host) as client:
                seen = json.loads(clients.answer(client, b"describe"))
                assert seen["peer"] == list(client.getsockname())


def test_dual_stack() -> None:
    """One socket serves IPv6 too, from the address that was asked."""
    requires_ipv6()
    with running(ACT, address="udp://:0") as server:
        with clients.sender(server.address, 5, "::1") as client:
            seen = json.loads(clients.answer(client, b"describe"))
        assert seen["peer"][0] == "::1"
        assert seen["client_address"] == seen["peer"]


@pytest.mark.parametrize("reused", [0, 1], ids=["plain", "reusable"])
def test_port_in_use(reused: int) -> None:
    """A UDP port that somebody has is not taken from him, whatever he allows."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as owner:
        owner.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reused)
        owner.bind(("127.0.0.1", 0))
        place = f"udp://127.0.0.1:{owner.getsockname()[1]}"
        done = run_command("run", ACT, "-b", place)
    assert_one_line(done, 1, place, "in use")


def test_port_of_a_running_server() -> None:
    """Two servers cannot have one UDP port."""
    with running(ACT, address=UDP) as server:
        assert_one_line(run_command("run", ACT, "-b", server.address), 1, "in use")
        assert clients.ask_datagram(server.address, "echo fine") == "fine"


def assert_one_line(done: subprocess.CompletedProcess[str], status: int, *words: str) -> None:
    """Fail unless the command ended with this status and an error in one line with these words."""
    errors = lines_of(done.stderr, "^forkserve(?: run| check)?: error: ")
    assert done.returncode == status, done.stderr
    assert len(errors) == 1, done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in errors[0], done.stderr


MISFITS = [
    (ECHO, "udp://127.0.0.1:0"),
    (ECHO, "unixgram:///nowhere/x"),
    (handler("echo.py:StreamRequest"), "udp://127.0.0.1:0"),
    (ACT, "tcp://127.0.0.1:0"),
    (ACT, "unix:///nowhere/x"),
    (REQUEST.acts, "tcp://127.0.0.1:0"),
    (handler("datagrams.py:make_udp"), "tcp://127.0.0.1:0"),
]


@pytest.mark.parametrize("command", ["run", "check"])
@pytest.mark.parametrize(("target", "address"), MISFITS)
def test_handler_that_does_not_fit_the_address(
    command: str, target: str, address: str, tmp_path: Path
) -> None:
    """A handler at an address that is not for it is a contradiction, and nothing is left open."""
    address = address.replace("/nowhere", str(tmp_path))
    done = run_command(command, target, "-b", address)
    assert list(tmp_path.iterdir()) == []
    assert_one_line(done, 78, address, "datagrams", "connections")


# -- inherited descriptors


@pytest.fixture
def udp() -> Iterator[socket.socket]:
    """Return a bound UDP socket."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as bound:
        bound.bind(("127.0.0.1", 0))
        bound.settimeout(5)
        yield bound


@pytest.fixture
def tcp() -> Iterator[socket.socket]:
    """Return a listening TCP socket."""
    with socket.create_server(("127.0.0.1", 0)) as bound:
        bound.settimeout(5)
        yield bound


def inheriting(target: str, mode: Mode, owner: socket.socket) -> Any:
    """Serve what comes to a socket of ours."""
    number = owner.fileno()
    return running(target, *mode.arguments, address=f"fd://{number}", pass_fds=[number])


@mostly_plain
def test_inherited_udp_socket(mode: Mode, udp: socket.socket) -> None:
    """A bound UDP socket is served under its own address, and is ours again after the stop."""
    with inheriting(ACT, mode, udp) as server:
        assert clients.port_of(server.address) == udp.getsockname()[1]
        assert clients.ask_datagram(server.address, "echo fine") == "fine"
        with clients.sender(server.address) as late:
            with standing_still(server):
                late.send(b"echo early")
                server.signal(SIGTERM)
                server.wait_for_line("TERM")
                late.send(b"echo late")
            assert server.wait() == 0
            late.send(b"echo last")
            served = [b"echo " + data for data in clients.waiting_datagrams(late)]
        left = clients.waiting_datagrams(udp)
        assert sorted(served + left) == [b"echo early", b"echo last", b"echo late"]
        assert left[-1] == b"echo last"


@mostly_plain
def test_inherited_listener(mode: Mode, tcp: socket.socket) -> None:
    """A listening TCP socket is served, and accepts for its owner after the stop."""
    with inheriting(handler("acts.py:Stream"), mode, tcp) as server:
        assert clients.port_of(server.address) == tcp.getsockname()[1]
        assert clients.ask_line(server.address, "echo fine") == "fine"
        assert server.stop() == 0
        with clients.connect(server.address), tcp.accept()[0] as accepted:
            assert accepted.getsockname() == tcp.getsockname()


def unlistening(stack: ExitStack, folder: Path) -> int:
    """Return a TCP socket that is bound and does not listen."""
    bound = stack.enter_context(socket.socket())
    bound.bind(("127.0.0.1", 0))
    return bound.fileno()


def unbound_tcp(stack: ExitStack, folder: Path) -> int:
    """Return a TCP socket as it was made."""
    return stack.enter_context(socket.socket()).fileno()


def a_file(stack: ExitStack, folder: Path) -> int:
    """Return a file."""
    return stack.enter_context((folder / "file").open("w")).fileno()


USELESS: list[tuple[Callable[[ExitStack, Path], int], str]] = [
    (unlistening, "does not listen"),
    (unbound_tcp, "does not listen"),
    (a_file, "non-socket"),
]


@pytest.mark.parametrize(("make", "words"), USELESS)
def test_descriptor_that_cannot_be_served(
    make: Callable[[ExitStack, Path], int], words: str, tmp_path: Path
) -> None:
    """A descriptor that nothing can come to is refused with one line that says why."""
    with ExitStack() as stack:
        number = make(stack, tmp_path)
        server = stack.enter_context(
            starting(FUNCTION.echo, "-b", f"fd://{number}", pass_fds=[number], expect="error")
        )
        assert server.wait() == 1
    (line,) = server.stderr_so_far().splitlines()
    assert f"fd://{number}" in line
    assert words in line.lower()


def test_unbound_udp_socket() -> None:
    """A UDP socket without a port is refused: nothing can come to it."""
    with socket.socket(type=socket.SOCK_DGRAM) as unbound:
        place = f"fd://{unbound.fileno()}"
        with starting(ACT, "-b", place, pass_fds=[unbound.fileno()], expect="error") as server:
            assert server.wait(2) == 1


def test_closed_descriptor() -> None:
    """A descriptor that is not open is refused with one line."""
    assert_one_line(run_command("run", FUNCTION.echo, "-b", "fd://77"), 1, "fd://77", "descriptor")


# -- very many


@pytest.mark.heavy
@pytest.mark.timeout(300)
@every_transport
@pytest.mark.parametrize(
    ("name", "count"),
    [("iterative", 100_000), ("thread", 100_000), ("prefork", 100_000), ("process", 2000)],
)
def test_very_many_datagrams(name: str, count: int, transport: str, tmp_path: Path) -> None:
    """Each of very many datagrams is answered once, to its sender, and none is lost."""
    each = count // 8
    with running(
        OWN.echo, *MODE[name].arguments, address=address_of(transport, tmp_path)
    ) as server:

        def exchange(client: int) -> tuple[int, bool]:
            questions = [b"client %d datagram %d" % (client, number) for number in range(each)]
            with clients.sender(server.address, 20) as sender:
                answers = clients.exchange_datagrams(sender, questions, window=8)
            return len(answers), sorted(answers) == sorted(questions)

        results = clients.at_once(8, exchange)
    print(f"{name} {transport}: {count} asked, {sum(n for n, _ in results)} answered")  # noqa: T201
    assert results == [(each, True)] * 8
