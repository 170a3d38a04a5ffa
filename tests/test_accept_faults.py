"""What the kernel and the peers do to a server, and what it makes of it."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support import clients, processes
from tests.support.faults import Fifo, frozen, injecting, lines_of, out_of_descriptors
from tests.support.modes import ACTS, MODE, MODES, MOSTLY_PLAIN, PLAIN_MODES, Mode, named
from tests.support.requirements import requires, requires_root
from tests.support.server import TCP, Server, handler, running
from tests.support.waiting import Stopwatch, becomes, eventually, pause, settled

every_mode = pytest.mark.parametrize("mode", MODES, ids=named(MODES))
mostly_plain = pytest.mark.parametrize("mode", MOSTLY_PLAIN)
every_plain_mode = pytest.mark.parametrize("mode", PLAIN_MODES, ids=named(PLAIN_MODES))


def spread(errors: list[str]) -> list[Any]:
    """Return every error in every plain mode, heavy but for the first error and one mode."""
    return [
        pytest.param(
            error,
            mode,
            id=f"{error}-{mode.name}",
            marks=() if error == errors[0] or mode.name == "prefork" else pytest.mark.heavy,
        )
        for error in errors
        for mode in PLAIN_MODES
    ]


TRANSIENT = spread(
    [
        "ECONNABORTED",
        "ENETDOWN",
        "EPROTO",
        "ENOPROTOOPT",
        "EHOSTDOWN",
        "ENONET",
        "EHOSTUNREACH",
        "EOPNOTSUPP",
        "ENETUNREACH",
        "ETIMEDOUT",
        "EPERM",
        "EAGAIN",
    ]
)
SHORTAGES = spread(["EMFILE", "ENFILE", "ENOBUFS", "ENOMEM", "EUCLEAN"])


def family_pids(server: Server) -> list[int]:
    """Return the numbers of all its processes but the supervisor."""
    return [process.pid for process in server.family()]


def cpu_of(pids: list[int]) -> float:
    """Return the processor time that these processes have had together."""
    return sum(processes.cpu_seconds(pid) for pid in pids)


@every_plain_mode
def test_out_of_descriptors(mode: Mode, tmp_path: Path) -> None:
    """Out of descriptors, clients wait, the processor rests, the log is brief (F01)."""
    with running(ACTS, *mode.arguments) as server:
        assert clients.ask_line(server.address, "echo before") == "before"
        if not mode.lasting:
            eventually(lambda: len(server.family()) == 1)
        family = family_pids(server)
        with ExitStack() as late:
            with out_of_descriptors(family):
                waiting = late.enter_context(clients.several(server.address, 3))
                for client in waiting:
                    client.sendall(b"echo after\n")
                    client.shutdown(socket.SHUT_WR)
                server.wait_for_line("EMFILE|Too many open files")
                spent = cpu_of(family)
                pause(1)
                assert cpu_of(family) - spent <= 0.05
                assert server.is_running()
            watch = Stopwatch()
            assert [clients.read_to_end(client) for client in waiting] == [b"after\n"] * 3
            assert watch.seconds < 5
        assert family_pids(server)[0] == family[0]
        assert len(lines_of(server.stderr_so_far(), "EMFILE|Too many open files")) <= 3


@pytest.mark.parametrize("name", ["thread", "prefork-threads"])
def test_out_of_descriptors_with_a_connection_at_work(name: str) -> None:
    """Out of descriptors, a connection stays served, and its end lets the next one in (F01)."""
    mode = MODE[name]
    with running(ACTS, mode.mode, "-w", "1", *mode.flags[2:]) as server:
        worker = int(clients.ask_line(server.address, "pid"))
        settled(partial(processes.descriptors, worker))  # so that the next one is the lowest
        with (
            clients.connect(server.address) as old,
            out_of_descriptors([worker]),
            clients.several(server.address, 3) as waiting,
        ):
            server.wait_for_line("EMFILE|Too many open files")
            assert clients.command(old, "echo fine") == "fine"
            old.close()
            watch = Stopwatch()
            waiting[0].settimeout(5)
            assert int(clients.command(waiting[0], "pid")) == worker
            assert watch.seconds < 5


def test_stop_while_out_of_descriptors() -> None:
    """A server out of descriptors stops at the drain timeout at the latest (F79, F80)."""
    with running(ACTS, "thread", "--drain-timeout", "1") as server:
        worker = int(clients.ask_line(server.address, "pid"))
        with out_of_descriptors([worker]), clients.connect(server.address):
            server.wait_for_line("EMFILE|Too many open files")
            watch = Stopwatch()
            assert server.stop() == 0
            assert watch.seconds < 10


@pytest.mark.parametrize(("error", "mode"), SHORTAGES)
def test_shortage_at_accept(error: str, mode: Mode) -> None:
    """A limit of the machine makes a pause, is said once or so, ends nothing (F01-F03, F09)."""
    with running(ACTS, *mode.arguments) as server:
        before = family_pids(server)
        with injecting(before, f"accept4:error={error}:when=1..5"):
            watch = Stopwatch()
            assert clients.ask_line(server.address, "echo served", 20) == "served"
            assert watch.seconds < 10
            assert clients.ask_line(server.address, "echo again", 20) == "again"
        assert set(before[:1]) <= set(family_pids(server))
        assert 1 <= len(lines_of(server.stderr_so_far(), error)) <= 4


@pytest.mark.parametrize(("error", "mode"), TRANSIENT)
def test_passing_error_at_accept(error: str, mode: Mode) -> None:
    """An error of one dead connection is tried again at once, without a word (F04-F06)."""
    with running(ACTS, *mode.arguments) as server:
        before = family_pids(server)
        with injecting(before, f"accept4:error={error}:when=1"):
            assert clients.ask_line(server.address, "echo served", 20) == "served"
        assert set(before[:1]) <= set(family_pids(server))
        assert lines_of(server.stderr_so_far(), error) == []


def test_attempts_while_out_of_descriptors(tmp_path: Path) -> None:
    """A shortage costs at most 20 attempts a second (F01)."""
    log = tmp_path / "calls"
    with running(ACTS, "prefork", "-w", "1") as server:
        worker = int(clients.ask_line(server.address, "pid"))
        with (
            injecting([worker], "accept4:error=EMFILE:when=1..1000", log=log),
            clients.connect(server.address),
        ):
            server.wait_for_line("EMFILE")
            before = log.read_text().count("accept4")
            pause(2)
            assert 1 <= log.read_text().count("accept4") - before <= 40


def test_one_client_four_workers() -> None:
    """That a sibling was faster is no event for a worker (F06)."""
    with running(ACTS, "prefork", "-w", "4", "--log-level", "debug") as server:
        for _ in range(50):
            assert clients.ask_line(server.address, "echo here") == "here"
        assert lines_of(server.stderr_so_far(), "EAGAIN|BlockingIOError") == []


@pytest.mark.parametrize("name", ["iterative", "prefork"])
def test_storm_of_signals(name: str) -> None:
    """A thousand alarms a second interrupt no call and cost no byte (F07)."""
    with running(ACTS, name, "-w", "1") as server:
        assert clients.ask_line(server.address, "storm") == "storm"
        for number in range(300):
            assert clients.ask_line(server.address, f"echo {number}") == str(number)
        with clients.connect(server.address) as client:
            client.sendall(b"big 1048576\n")
            client.shutdown(socket.SHUT_WR)
            assert clients.read_to_end(client) == b"x" * 1048576


@pytest.mark.parametrize("name", ["iterative", "thread", "prefork"])
def test_listener_that_a_handler_shut_down(name: str) -> None:
    """A listener that somebody shut down is replaced or ends the server; none spins (F08)."""
    expect = "Invalid argument|worker .* exited"
    with running(ACTS, name, expect=expect, status=None) as server:
        assert clients.ask_json(server.address, "listening") != []
        assert clients.ask_line(server.address, "shut-listener") == "shut"
        family = family_pids(server)
        spent = cpu_of(family)
        pause(1)
        assert cpu_of(family) - spent <= 0.3
        if server.is_running():
            eventually(lambda: _serves(server.address))
        else:
            assert server.wait() == 1
            assert "forkserve: " in server.stderr_so_far().splitlines()[-1]


def _serves(address: str) -> bool:
    try:
        return clients.ask_line(address, "echo here", 1) == "here"
    except OSError:
        return False


@mostly_plain
def test_resets_before_accept(mode: Mode) -> None:
    """200 clients that reset while they were queued are nobody else's business (F10)."""
    with running(ACTS, *mode.arguments) as server:
        assert clients.ask_line(server.address, "echo before") == "before"
        with frozen([process.pid for process in server.processes()]):
            for _ in range(200):
                clients.reset(clients.connect(server.address))
        assert clients.ask_line(server.address, "echo after") == "after"


@pytest.mark.heavy
@every_plain_mode
def test_flood_on_one_listener(mode: Mode) -> None:
    """A flood on one address does not keep the clients of another waiting (F12)."""
    enough = threading.Event()
    flooding = []
    with running(ACTS, *mode.arguments, address=[TCP, TCP]) as server:
        flooded, quiet = server.addresses

        def flood() -> None:
            while not enough.is_set():
                watch = Stopwatch()
                clients.ask_line(flooded, "echo flood")
                flooding.append(watch.seconds)

        threads = [threading.Thread(target=flood) for _ in range(4)]
        for thread in threads:
            thread.start()
        try:
            times = []
            for _ in range(30):
                watch = Stopwatch()
                assert clients.ask_line(quiet, "echo quiet") == "quiet"
                times.append(watch.seconds)
                pause(0.05)
        finally:
            enough.set()
            for thread in threads:
                thread.join()
    # On a busy machine those who flood wait as well: nobody else waits longer than they do.
    assert sorted(times)[-2] <= 0.1 + max(flooding), sorted(times)


def test_more_clients_than_the_backlog() -> None:
    """Clients that found the queue full are served once there is room (F13)."""
    with running(ACTS, "prefork", "-w", "2", address=f"{TCP}?backlog=2") as server:

        def one(number: int) -> str:
            return clients.ask_line(server.address, f"echo {number}", 20)

        with ThreadPoolExecutor(8) as pool:
            with frozen([process.pid for process in server.processes()]):
                answers = [pool.submit(one, number) for number in range(8)]
                done, _ = wait(answers, 0.3)
                assert done == set()
            assert [answer.result() for answer in answers] == [str(n) for n in range(8)]


FLOOD = """
import socket, sys
address = ("127.0.0.1", int(sys.argv[1]))
held = []
for number in range(int(sys.argv[2])):
    client = socket.socket()
    client.setblocking(False)
    client.connect_ex(address)
    held.append(client)
    if len(held) > 500:
        held.pop(0).close()
for client in held:
    client.close()
with socket.create_connection(address, 40) as client:
    client.sendall(b"echo served\\n")
    print(client.makefile().readline(), end="")
"""


@pytest.mark.heavy
@every_plain_mode
def test_flood_of_connections(mode: Mode) -> None:
    """After 5000 connects with a short queue for handshakes the next one is served (F14)."""
    requires("unshare", "nsenter", "ip")
    requires_root()
    script = 'ip link set lo up; sysctl -qw net.ipv4.tcp_max_syn_backlog=128; exec "$@"'
    under = ["unshare", "-n", "sh", "-c", script, "sh"]
    with running(ACTS, *mode.arguments, under=under) as server:
        inside = ["nsenter", "-t", str(server.pid), "-n", sys.executable, "-c", FLOOD]
        port = str(clients.port_of(server.address))
        done = subprocess.run([*inside, port, "5000"], capture_output=True, text=True, check=False)
        assert (done.stdout, done.stderr) == ("served\n", "")


@pytest.mark.heavy
def test_no_lock_is_left_by_the_dead() -> None:
    """100 workers killed one after another take no lock with them (F16)."""
    with running(ACTS, "prefork", "-w", "2", expect="worker") as server:
        for _ in range(100):
            doomed = int(clients.ask_line(server.address, "pid"))
            os.kill(doomed, signal.SIGKILL)
            assert clients.ask_line(server.address, "echo here") == "here"


FORK = ["clone", "clone3", "fork", "vfork"]


def fork_fails(when: str, error: str = "EAGAIN") -> list[str]:
    """Return the injections that let a fork or a new thread fail."""
    return [f"{call}:error={error}:when={when}" for call in FORK]


@pytest.mark.parametrize("error", ["EAGAIN", "ENOMEM"])
@pytest.mark.parametrize("name", ["process", "process-spare", "process-reused"])
def test_fork_for_a_connection_fails(name: str, error: str) -> None:
    """Without a process for it a connection is ended or kept; the next is served (F19)."""
    mode = MODE[name]
    with running(ACTS, *mode.arguments) as server:
        worker = int(clients.ask_line(server.address, "parent"))
        before = settled(lambda: len(processes.descriptors(worker)))
        with injecting([worker], *fork_fails("1..3", error)):
            answers = [_answer_or_end(server.address) for _ in range(8)]
            assert set(answers) <= {"served", ""}
            assert answers[-1] == "served"
        assert clients.ask_line(server.address, "parent") == str(worker)
        becomes(before, lambda: len(processes.descriptors(worker)))


def _answer_or_end(address: str) -> str:
    """Return what a client got, nothing if the server ended the connection; never hang."""
    with clients.connect(address, 8) as client, suppress(ConnectionError):
        return clients.command(client, "echo served")
    return ""


@pytest.mark.parametrize("name", ["thread", "prefork-threads"])
def test_thread_cannot_be_started(name: str) -> None:
    """Without a thread for them connections are ended or wait; the worker goes on (F20)."""
    mode = MODE[name]
    with running(ACTS, mode.mode, "-w", "1", *mode.flags[2:]) as server:
        before = family_pids(server)
        worker = int(clients.ask_line(server.address, "pid"))
        with injecting([worker], *fork_fails("1..3")):
            answers = clients.at_once(8, lambda _: _answer_or_end(server.address))
            assert set(answers) <= {"served", ""}
            assert "served" in answers
            assert clients.ask_line(server.address, "pid") == str(worker)
        assert family_pids(server) == before


def test_thread_left_by_the_users_import() -> None:
    """A thread that the user's module started is named in one warning (F21)."""
    with running(handler("threaded.py:Stream"), "prefork", expect="use of fork") as server:
        assert clients.ask(server.address, b"hello") == b"hello"
        assert len(lines_of(server.stderr_so_far(), "left-by-the-user")) == 1


@pytest.mark.parametrize("name", ["process", "process-spare", "process-reused"])
def test_signal_to_a_child_just_born(name: str) -> None:
    """A TERM that hits a child at its birth neither wakes nor stops its parents (F25)."""
    mode = MODE[name]
    enough = threading.Event()
    with running(ACTS, *mode.arguments, expect="child|process") as server:
        worker = int(clients.ask_line(server.address, "parent"))

        def hunt() -> None:
            while not enough.is_set():
                for child in processes.descendants(worker):
                    with suppress(ProcessLookupError):
                        os.kill(child.pid, signal.SIGTERM)

        hunter = threading.Thread(target=hunt)
        hunter.start()
        try:
            for _ in range(200):
                _answer_or_end(server.address)
        finally:
            enough.set()
            hunter.join()
        assert clients.ask_line(server.address, "echo here") == "here"
        assert clients.ask_line(server.address, "parent") == str(worker)
        assert server.is_running()


@pytest.mark.parametrize("name", ["process", "process-spare", "process-reused"])
def test_child_never_returns_into_its_parent(name: str, tmp_path: Path) -> None:
    """Whatever a child's handler raises, no clean-up of its parents runs in it (F26, F83)."""
    mode = MODE[name]
    notes = tmp_path / "notes"
    env = {"ATEXIT_NOTES": str(notes)}
    path = tmp_path / "s"
    target = handler("traces.py:Stream")
    options = {
        "env": env,
        "expect": "handler of .* raised |raised on purpose",
        "address": f"unix://{path}",
    }
    with running(target, *mode.arguments, **options) as server:  # type: ignore[arg-type]
        for fault in ("SystemExit", "KeyboardInterrupt", "GeneratorExit", "Unheard", "OSError"):
            with clients.connect(server.address) as client:
                client.sendall(f"raise {fault}\n".encode())
                assert clients.ends(client)
        assert clients.ask_line(server.address, "echo here") == "here"
        assert path.is_socket()
        assert not notes.exists()


@every_mode
def test_text_before_a_fork_is_written_once(mode: Mode, tmp_path: Path) -> None:
    """What the user's module wrote and did not flush comes out once (F27)."""
    target = handler("traces.py:Stream")
    env = {"ATEXIT_NOTES": str(tmp_path / "notes")}
    with running(target, *mode.arguments, env=env) as server:
        for _ in range(20):
            assert clients.ask_line(server.address, "echo here") == "here"
        server.stop()
        assert server.stdout_so_far() == "written once and not flushed;"


@every_mode
def test_descriptors_of_a_handler(mode: Mode) -> None:
    """A connection's own process has no other connection's descriptor and no listener (F28)."""
    with running(ACTS, *mode.arguments) as server:
        with ExitStack() as held:
            others = min(mode.lanes - 1, 3)
            for _ in range(others):
                client = held.enter_context(clients.connect(server.address))
                assert clients.command(client, "echo here") == "here"
            with clients.connect(server.address) as client:
                links = json.loads(clients.command(client, "links"))
                listening = json.loads(clients.command(client, "listening"))
        sockets = [link for link in links.values() if link.startswith("socket:")]
        if mode.mode == "process":
            expected = 1 + len(listening)
        elif mode.mode == "thread":
            expected = 1 + others + len(listening)
        else:
            expected = None
        if expected is not None:
            assert len(sockets) == expected, links
        if mode.name == "process":
            assert listening == []


@every_mode
def test_descriptors_of_a_handlers_program(mode: Mode) -> None:
    """A program that a handler starts inherits nothing but the standard three (F28)."""
    with running(ACTS, *mode.arguments) as server:
        # The fourth is the listing itself.
        assert clients.ask_json(server.address, "program-links") == ["0", "1", "2", "3"]


@pytest.mark.parametrize("name", ["iterative", "process", "prefork"])
def test_connection_ends_although_a_child_still_holds_it(name: str, fifo: Fifo) -> None:
    """The peer sees the end at once although a child that the handler forked has a copy (F29)."""
    with running(ACTS, name) as server:
        with clients.connect(server.address) as client:
            orphan = int(clients.command(client, f"leave-an-orphan {fifo.path}"))
            client.sendall(b"enough\n")
            assert clients.read_to_end(client) == b""
        fifo.release()
        assert processes.wait_until_gone(orphan)


@every_mode
def test_answer_survives_unread_input(mode: Mode) -> None:
    """An answer given before all was read arrives whole, although the rest is never read (F92)."""
    answer_size = len(b"refused: too large\n") + 4096
    for name in ("Refuse", "OldRefuse"):
        with running(handler(f"upload.py:{name}"), *mode.arguments) as server:
            for _ in range(20):
                with clients.connect(server.address) as client:
                    client.sendall(b"x" * 100_000)
                    assert len(clients.read_to_end(client)) == answer_size


@pytest.mark.heavy
@every_mode
def test_no_answer_is_cut_off(mode: Mode) -> None:
    """2000 such answers arrive whole, eight at a time (F92)."""
    answer_size = len(b"refused: too large\n") + 4096

    with running(handler("upload.py:Refuse"), *mode.arguments) as server:
        assert (
            clients.at_once(8, lambda _: clients.count_cut(server.address, answer_size)) == [0] * 8
        )


@every_mode
def test_peer_that_never_reads_holds_up_nobody(mode: Mode) -> None:
    """A peer that neither reads its answer nor ends delays no other client (F92, F93)."""
    with running(handler("upload.py:Refuse"), *mode.arguments) as server:
        stuck = [clients.connect(server.address) for _ in range(3)]
        for client in stuck:
            client.sendall(b"x" * 50_000)
        watch = Stopwatch()
        for _ in range(3):
            with clients.connect(server.address) as client:
                client.sendall(b"x" * 20)
                assert clients.read_line(client) == b"refused: too large\n"
        assert watch.seconds < 2  # as long as the server has patience with the first
        for client in stuck:
            client.close()


@mostly_plain
def test_lingering_has_an_end(mode: Mode) -> None:
    """A peer that never ends its side is let go after two seconds (F92)."""
    with running(handler("upload.py:Refuse"), *mode.arguments) as server:
        before = sockets_of(server)
        with clients.connect(server.address) as client:
            client.sendall(b"x" * 20)
            assert len(clients.read_to_end(client)) == len(b"refused: too large\n") + 4096
            watch = Stopwatch()
            becomes(before, lambda: sockets_of(server))
            assert watch.seconds < 10


def sockets_of(server: Server) -> set[str]:
    """Return the sockets that its processes hold."""
    held = (processes.descriptors(pid).values() for pid in family_pids(server))
    return {link for links in held for link in links if link.startswith("socket:")}


@pytest.mark.parametrize("name", ["process", "process-spare", "process-reused"])
def test_a_child_reads_no_module_of_ours(name: str, tmp_path: Path) -> None:
    """What a child needs was imported before its fork, not once again in each of them (F24)."""
    mode = MODE[name]
    log = tmp_path / "opened"
    with running(handler("echo.py:Files"), *mode.arguments) as server:
        (worker,) = (one.pid for one in server.processes() if one.parent == server.leader)
        with injecting([worker], "openat:delay_enter=1", "clone:delay_enter=1", log=log):
            for _ in range(4):
                assert clients.ask(server.address, b"a line\n") == b"a line\n"
    assert "clone" in log.read_text()
    assert "forkserve/" not in log.read_text()


@pytest.mark.parametrize("flags", [("thread",), ("prefork", "-w", "1")], ids=["thread", "prefork"])
def test_clients_who_fill_every_thread_come_back(flags: tuple[str, ...]) -> None:
    """As many clients as there are threads leave, their threads end, and all come again."""
    with running("examples/echo.py:Echo", *flags, "--threads", "16") as server:
        worker = server.processes()[-1].pid
        for _ in range(3):
            with clients.several(server.address, 16) as crowd:
                for client in crowd:
                    client.sendall(b"hello")
                assert [clients.read_exactly(client, 5) for client in crowd] == [b"hello"] * 16
                settled(lambda: processes.cpu_seconds(worker))  # nobody can be added any more
            eventually(lambda: len(processes.threads(worker)) < 10)
