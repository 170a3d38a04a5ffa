"""What a handler or its peer does to the process that serves it, and what the server makes of it.

A child that called setsid() has left its process group and is out of our reach: it may stay.
"""

import json
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.support import clients, processes
from tests.support.faults import frozen
from tests.support.modes import ACTS, KINDS, MODES, MOSTLY_PLAIN, Kind, Mode, cross, named
from tests.support.requirements import missing
from tests.support.server import Server, adopted, handler, running
from tests.support.waiting import Stopwatch, settled

STRAYS = handler("strays.py:Stream")
FORKS = "use of fork"  # what Python says of a fork in a thread

every_mode = pytest.mark.parametrize("mode", MODES, ids=named(MODES))
mostly_plain = pytest.mark.parametrize("mode", MOSTLY_PLAIN)


# -- processes that a handler leaves behind (F47)


@contextmanager
def strays_of(server: Server) -> Iterator[socket.socket]:
    """Yield a client whose handler has left strays; after the block none of them may run.

    A stray's zombie is its adopter's to collect: ours, as it is init's elsewhere.
    """
    with clients.connect(server.address) as client:
        strays: list[int] = json.loads(clients.command(client, "strays"))
        assert all(map(is_running, strays))
        serving = int(clients.command(client, "pid"))
        yield client
        left = [pid for pid in [*strays, serving] if not processes.wait_until_gone(pid, 1)]
        assert [processes.look_up(pid) for pid in left] == [], server.report()
    for process in adopted():
        if process.state == "Z":
            os.waitpid(process.pid, 0)


def is_running(pid: int) -> bool:
    """Tell whether there is such a process, and it has not ended."""
    process = processes.look_up(pid)
    return process is not None and process.state != "Z"


@every_mode
def test_strays_end_with_an_idle_server(mode: Mode) -> None:
    """What handlers forked and started and never waited for ends with an orderly stop (F47)."""
    with running(STRAYS, *mode.arguments, expect=FORKS) as server, strays_of(server) as client:
        client.shutdown(socket.SHUT_WR)
        assert clients.read_to_end(client) == b""
        assert server.stop(signal.SIGTERM) == 0


@every_mode
def test_strays_end_with_a_hurried_server(mode: Mode) -> None:
    """The same where the handler is still at work and a second TERM interrupts it (F47)."""
    with running(STRAYS, *mode.arguments, expect=FORKS) as server, strays_of(server):
        server.signal(signal.SIGTERM)
        server.wait_for_line("waiting for")
        assert server.stop(signal.SIGTERM) == 0


@every_mode
def test_strays_end_with_a_quitting_server(mode: Mode) -> None:
    """The same where the server is told to stop now (F47)."""
    with running(STRAYS, *mode.arguments, expect=FORKS) as server, strays_of(server):
        assert server.stop(signal.SIGQUIT) == 0


@every_mode
def test_strays_of_a_dead_worker(mode: Mode) -> None:
    """What was left by a worker that died before the stop is not left after it either (F47)."""
    with (
        running(STRAYS, *mode.arguments, expect=f"worker|{FORKS}") as server,
        strays_of(server) as client,
    ):
        doomed = int(clients.command(client, mode.worker))
        os.kill(doomed, signal.SIGKILL)
        server.wait_for_line("is ready")
        assert server.stop(signal.SIGTERM) == 0


@every_mode
def test_a_handler_collects_its_own_child(mode: Mode) -> None:
    """The status of a handler's own child is the handler's: nobody else has taken it (F47)."""
    with (
        running(STRAYS, *mode.arguments, expect=FORKS) as server,
        clients.connect(server.address) as client,
    ):
        child = int(clients.command(client, "child"))
        assert processes.wait_until_gone(child)
        assert clients.command(client, f"collect {child}") == "7"


@every_mode
def test_uncollected_children_end_with_their_process(mode: Mode) -> None:
    """Children that a handler never collects are zombies until its process ends (F47)."""
    with running(STRAYS, *mode.arguments, expect=FORKS) as server:
        with clients.connect(server.address) as client:
            children = [int(clients.command(client, "child")) for _ in range(3)]
            assert all(processes.wait_until_gone(child) for child in children)
            states = [processes.look_up(child) for child in children]
            assert [one and one.state for one in states] == ["Z"] * 3
        assert server.stop() == 0
        for child in children:
            assert processes.wait_until_gone(child, 0.0)


# -- a handler that changes the state of its process (F48)


@pytest.mark.parametrize(
    "is_held",
    [pytest.param(False, id="over"), pytest.param(True, id="held", marks=pytest.mark.heavy)],
)
@mostly_plain
def test_spoilt_process_does_not_delay_the_stop(mode: Mode, is_held: bool) -> None:
    """Whatever a handler changed, the next are served, and the stop takes its time at most (F48).

    It ignores TERM, blocks every signal, changes folder, umask, locale and default time-out.
    """
    with (
        running(STRAYS, *mode.arguments, "--drain-timeout", "1", expect="kill") as server,
        ExitStack() as held,
    ):
        for _ in range(3):
            client = held.enter_context(clients.connect(server.address))
            assert clients.command(client, "spoil") == "spoilt"
            client.close()
        assert clients.ask_line(server.address, "echo still") == "still"
        if is_held:
            client = held.enter_context(clients.connect(server.address))
            assert clients.command(client, "spoil") == "spoilt"
        watch = Stopwatch()
        assert server.stop() == 0
        assert watch.seconds < 10


# -- descriptors that a peer sends and nobody asked for (F106)

RIGHTS = 250


def with_rights() -> list[object]:
    """Return every kind of handler in every mode; not heavy is one of ours, one stock."""
    plain = {(KINDS[0].name, "prefork"), (KINDS[2].name, "thread"), (KINDS[3].name, "process")}
    return [
        pytest.param(
            kind,
            mode,
            id=f"{kind.name}-{mode.name}",
            marks=() if (kind.name, mode.name) in plain else pytest.mark.heavy,
        )
        for kind in KINDS
        for mode in MODES
    ]


def open_descriptors(pids: list[int]) -> list[int]:
    """Return how many descriptors each process has open, once that does not change."""
    return settled(lambda: [len(processes.descriptors(pid)) for pid in pids])


@pytest.mark.parametrize(("kind", "mode"), with_rights())
def test_flood_of_descriptors(kind: Kind, mode: Mode, tmp_path: Path) -> None:
    """Descriptors sent to a handler are not received, and the bytes beside them are (F106)."""
    with (
        running(kind.echo, *mode.arguments, address=f"unix://{tmp_path}/s") as server,
        clients.connect(server.address) as client,
    ):
        client.sendall(b"hello")
        assert clients.read_exactly(client, 5) == b"hello"
        pids = [process.pid for process in server.processes()]
        before = open_descriptors(pids)
        for number in range(1000):
            message = b"%04d" % number
            socket.send_fds(client, [message], [client.fileno()] * RIGHTS)
            assert clients.read_exactly(client, 4) == message
        assert open_descriptors(pids) == before


@every_mode
def test_descriptors_that_are_never_read(mode: Mode, tmp_path: Path) -> None:
    """Descriptors that come after a handler has answered and left are not received (F106)."""
    address = f"unix://{tmp_path}/s"
    with (
        running(handler("upload.py:Refuse"), *mode.arguments, address=address) as server,
        clients.connect(server.address) as client,
    ):
        client.sendall(b"x" * 20)
        assert clients.read_line(client) == b"refused: too large\n"
        pids = [process.pid for process in server.processes()]
        before = open_descriptors(pids)
        for _ in range(3):
            socket.send_fds(client, [b"unread"], [client.fileno()] * RIGHTS)
        assert open_descriptors(pids) == before


# -- the queue of a Unix socket (F112)


def knock(path: str) -> socket.socket:
    """Return a client that does not wait for room in the queue: BlockingIOError if it is full."""
    client = socket.socket(socket.AF_UNIX)
    client.setblocking(False)
    try:
        client.connect(path)
    except OSError:
        client.close()
        raise
    client.settimeout(30)
    return client


@mostly_plain
def test_five_hundred_at_once(mode: Mode, tmp_path: Path) -> None:
    """500 clients find room in the queue while nobody accepts, and then all are served (F112)."""
    if int(Path("/proc/sys/net/core/somaxconn").read_text()) < 500:
        missing("a net.core.somaxconn of 500")
    with running(ACTS, *mode.arguments, address=f"unix://{tmp_path}/s") as server:
        with ExitStack() as held:
            with frozen([process.pid for process in server.processes()]):
                path = clients.path_of(server.address)
                queued = [held.enter_context(knock(path)) for _ in range(500)]
                for number, client in enumerate(queued):
                    client.sendall(b"echo %d\n" % number)
                    client.shutdown(socket.SHUT_WR)
            answers = [clients.read_to_end(client) for client in queued]
        assert answers == [b"%d\n" % number for number in range(500)]


def test_full_unix_queue(tmp_path: Path) -> None:
    """With a queue of one the kernel turns a third client away at once, and two are served."""
    with running(ACTS, address=f"unix://{tmp_path}/s?backlog=1") as server, ExitStack() as held:
        path = clients.path_of(server.address)
        with frozen([process.pid for process in server.processes()]):
            queued = [held.enter_context(knock(path)) for _ in range(2)]
            with pytest.raises(BlockingIOError):
                knock(path)
        for client in queued:
            assert clients.command(client, "echo served") == "served"
            client.close()
        assert clients.ask_line(server.address, "echo here") == "here"


# -- urgent data (F105)


@pytest.mark.parametrize(("kind", "mode"), cross(KINDS, ("tcp",)))
def test_urgent_byte(kind: Kind, mode: Mode) -> None:
    """An urgent byte neither appears among the others nor stops them (F105)."""
    with running(kind.echo, *mode.arguments) as server, clients.connect(server.address) as client:
        client.sendall(b"before")
        client.send(b"!", socket.MSG_OOB)
        client.sendall(b"after")
        client.shutdown(socket.SHUT_WR)
        assert clients.read_to_end(client) == b"beforeafter"


@every_mode
def test_urgent_byte_that_is_never_read(mode: Mode) -> None:
    """An urgent byte in what a handler leaves unread does not cost the answer (F92, F105)."""
    with (
        running(handler("upload.py:Refuse"), *mode.arguments) as server,
        clients.connect(server.address) as client,
    ):
        client.sendall(b"x" * 30)
        client.send(b"!", socket.MSG_OOB)
        client.sendall(b"x" * 30)
        assert len(clients.read_to_end(client)) == len(b"refused: too large\n") + 4096
