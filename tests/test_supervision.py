"""The supervisor, the generations of the user's code below it, and their workers."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from tests.support import clients, processes
from tests.support.faults import Fifo, lines_of
from tests.support.modes import ACTS, MODE, MODES, MOSTLY_PLAIN, Mode, named
from tests.support.requirements import requires, requires_root
from tests.support.server import TCP, Server, handler, running, starting
from tests.support.waiting import becomes, eventually

every_mode = pytest.mark.parametrize("mode", MODES, ids=named(MODES))
mostly_plain = pytest.mark.parametrize("mode", MOSTLY_PLAIN)
DYING = handler("dying.py:Stream")

SOURCE = """
import os
from tests.handlers import reloadable
with open("imports", "a") as imports:
    imports.write(f"{os.getpid()}\\n")
PREAMBLE
class Echo(reloadable.Echo):
    version = VERSION
"""


class Site:
    """A folder with the code that is served."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file = folder / "app.py"

    def deploy(self, version: int, preamble: str = "", source: str = SOURCE) -> None:
        """Put another version of the code into its place."""
        text = source.replace("VERSION", str(version)).replace("PREAMBLE", preamble)
        draft = self._file.with_suffix(".draft")
        draft.write_text(text)
        draft.rename(self._file)

    def imported_by(self) -> list[int]:
        """Return the processes that have imported the code, in their order."""
        return [int(line) for line in (self.folder / "imports").read_text().split()]

    @contextmanager
    def running(self, mode: Mode, *flags: str, expect: str | None = None) -> Iterator[Server]:
        """Serve it."""
        arguments = (*mode.arguments, *flags)
        with running("app.py:Echo", *arguments, cwd=self.folder, expect=expect) as server:
            yield server


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """Return a folder with the first version."""
    site = Site(tmp_path)
    site.deploy(1)
    return site


def children(pid: int) -> list[int]:
    """Return the children of a process, in the order of their numbers."""
    return sorted(one.pid for one in processes.descendants(pid) if one.parent == pid)


def leader_of(server: Server) -> int:
    """Return the one child of the supervisor."""
    (leader,) = children(server.pid)
    return leader


def workers_of(server: Server) -> list[int]:
    """Return the children of the one leader."""
    return children(leader_of(server))


def version(server: Server) -> int:
    """Return which version serves a new client."""
    return int(clients.ask(server.address, b"version\n"))


def reload(server: Server, number: int) -> None:
    """Load the code again, and wait until only that generation is there."""
    server.signal(signal.SIGHUP)
    server.wait_for_line(f"generation {number} is ready")
    server.wait_for_line(f"generation {number - 1} has left")


def show(client: socket.socket) -> str:
    """Return a client's address as the log shows it."""
    host, port = client.getsockname()[:2]
    return f"{host}:{port}"


# -- the tree


@every_mode
def test_the_tree(mode: Mode) -> None:
    """A supervisor, its leader, the leader's workers: each is called what it is."""
    with running(ACTS, *mode.arguments) as server:
        leader = leader_of(server)
        workers = workers_of(server)
        named_so = {one.pid: one.name for one in server.processes()}
    assert named_so.pop(server.pid) == "fs-supervisor"
    assert named_so.pop(leader) == "fs-leader"
    assert [named_so.pop(worker) for worker in workers] == ["fs-worker"] * len(workers)
    assert len(workers) == (2 if mode.mode == "prefork" else 1)


def test_the_connections_of_a_worker_are_its_children() -> None:
    """In process mode there is one level more."""
    with running(ACTS, "process") as server, clients.connect(server.address) as client:
        assert clients.command(client, "parent") == str(workers_of(server)[0])


def maps(pid: int) -> str:
    """Return what files a process has mapped."""
    return Path(f"/proc/{pid}/maps").read_text()


@mostly_plain
def test_the_supervisor_never_imports_the_code(mode: Mode, site: Site) -> None:
    """Each generation's leader does, once, and nobody else."""
    site.deploy(1, "import _decimal")
    with site.running(mode) as server:
        first = leader_of(server)
        for _ in range(3):
            assert version(server) == 1
        reload(server, 2)
        second = leader_of(server)
        assert version(server) == 1
        assert site.imported_by() == [first, second]
        assert "_decimal" not in maps(server.pid)
        assert "_decimal" in maps(second)


@pytest.mark.parametrize("number", ["HUP", "USR1", "TTIN", "TTOU", "INT"])
def test_what_leaders_and_workers_are_deaf_to(number: str) -> None:
    """What is for the supervisor does nothing to those below it."""
    with running(ACTS, "prefork", "-w", "2") as server:
        leader, (worker, other) = leader_of(server), workers_of(server)
        for pid in (leader, worker, other):
            os.kill(pid, getattr(signal, f"SIG{number}"))
        os.kill(worker, signal.SIGTERM)  # so that each of them has something to say
        server.wait_for_line(r"worker \d+ is ready")
        assert clients.ask_line(server.address, "echo here") == "here"
        assert leader_of(server) == leader
        assert other in workers_of(server)
        said = lines_of(server.stderr_so_far(), r"\[\d+\] \[")
        others = [line for line in said if f"worker {worker}" not in line]
        assert len(others) == 1, "nothing but that one worker was replaced"


def test_a_worker_that_is_asked_to_leave() -> None:
    """TERM to a worker alone: it finishes what it serves, and another has its place at once."""
    with running(ACTS, "prefork", "-w", "1") as server, clients.connect(server.address) as client:
        worker = int(clients.command(client, "pid"))
        os.kill(worker, signal.SIGTERM)
        becomes("True", lambda: clients.command(client, "stopping"))
        server.wait_for_line(rf"worker {worker} was told to stop, not by us: another one starts")
        assert int(clients.ask_line(server.address, "pid")) != worker
        assert int(clients.command(client, "pid")) == worker
        client.shutdown(socket.SHUT_WR)
        assert clients.ends(client)


# -- a group that is stopped at once


def leaders_first(server: Server) -> list[int]:
    """Return the whole tree from the top."""
    return [one.pid for one in server.processes()]


def workers_first(server: Server) -> list[int]:
    """Return the whole tree from the leaves."""
    return leaders_first(server)[::-1]


@pytest.mark.parametrize("order", [leaders_first, workers_first])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@mostly_plain
def test_a_signal_to_everybody_at_once(
    mode: Mode, number: signal.Signals, order: Callable[[Server], list[int]], fifo: Fifo
) -> None:
    """As `kill` of a control group, or Ctrl-C: one orderly stop, and the queue is served."""
    count = min(mode.lanes, 4)
    bound = ("--max-connections", "4") if mode.lanes > count else ()
    with (
        running(ACTS, *mode.arguments, *bound) as server,
        clients.several(server.address, count) as busy,
    ):
        for client in busy:
            assert clients.command(client, f"announce wait-for {fifo.path}") == "started"
        with clients.several(server.address, 5) as queued:
            for client in queued:
                client.sendall(b"echo served\n")
                client.shutdown(socket.SHUT_WR)
            for pid in order(server):
                os.kill(pid, number)
            for client in busy:
                client.shutdown(socket.SHUT_WR)
            fifo.release(count)
            assert [clients.read_to_end(client) for client in busy] == [b"released\n"] * count
            assert [clients.read_to_end(client) for client in queued] == [b"served\n"] * 5
        assert server.wait() == 0


@pytest.mark.parametrize("order", [leaders_first, workers_first])
@mostly_plain
def test_a_signal_to_everybody_of_an_idle_server(
    mode: Mode, order: Callable[[Server], list[int]]
) -> None:
    """Nobody dies of it, nobody is replaced, and the status is 0."""
    with running(ACTS, *mode.arguments) as server:
        for pid in order(server):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        assert server.wait() == 0
    assert "starting generation" not in server.stderr_so_far()


@mostly_plain
def test_two_signals(mode: Mode) -> None:
    """The second TERM hurries all the way down."""
    with running(ACTS, *mode.arguments) as server, clients.connect(server.address) as held:
        assert clients.command(held, "stopping") == "False"
        server.signal(signal.SIGTERM)
        becomes("True", lambda: clients.command(held, "stopping"))
        server.signal(signal.SIGTERM)
        assert clients.ends(held)
        assert server.wait() == 0


def test_a_killed_supervisor_leaves_nobody_for_long() -> None:
    """Whoever is left finishes what it serves, takes nobody new, and goes."""
    with running(ACTS, "prefork", "-w", "2", status=-signal.SIGKILL) as server:
        with clients.connect(server.address) as held:
            assert clients.command(held, "echo here") == "here"
            family = [one.pid for one in server.family()]
            server.kill()
            becomes("True", lambda: clients.command(held, "stopping"))
            assert clients.command(held, "echo still") == "still"
        assert all(processes.wait_until_gone(pid) for pid in family)


# -- reloads


@every_mode
def test_a_reload(mode: Mode, site: Site) -> None:
    """New clients have the new code, those who are there already the old, until they leave."""
    with site.running(mode) as server, clients.connect(server.address) as held:
        assert clients.command(held, "version") == "1"
        old = workers_of(server)
        site.deploy(2)
        server.signal(signal.SIGHUP)
        server.wait_for_line(
            r"\[INFO\] generation 2 is ready; generation 1 finishes what it serves and leaves$"
        )
        assert clients.command(held, "version") == "1"
        becomes(2, lambda: version(server))  # the old ones may take some more until they are told
        assert clients.command(held, "version") == "1"
        held.close()
        server.wait_for_line(r"\[INFO\] generation 1 has left$")
        assert version(server) == 2
        assert not set(old) & set(workers_of(server))
    assert lines_of(server.stderr_so_far(), "SIGHUP: loading the code again, as generation 2$")


BROKEN = {
    "syntax": ("this is no Python", "SyntaxError"),
    "raises": ("raise LookupError('no such thing')", "LookupError: no such thing"),
    "exits": ("raise SystemExit(0)", "SystemExit"),
    "no-target": ("del reloadable.Echo", "has no attribute 'Echo'"),
}


@pytest.mark.parametrize("broken", BROKEN)
@mostly_plain
def test_a_reload_of_broken_code(broken: str, mode: Mode, site: Site) -> None:
    """The old generation goes on as if nothing had been; a traceback says where the fault is."""
    preamble, reason = BROKEN[broken]
    with site.running(mode, expect=f"reload failed|{reason}") as server:
        before = leader_of(server), workers_of(server)
        site.deploy(2, preamble)
        server.signal(signal.SIGHUP)
        line = server.wait_for_line(r"\[ERROR\] reload failed: (.*); generation 1 goes on serving$")
        assert reason in line[1]
        assert "Traceback" in server.stderr_so_far()
        assert 'app.py", line' in server.stderr_so_far()
        assert (leader_of(server), workers_of(server)) == before
        assert version(server) == 1
        site.deploy(3)
        server.signal(signal.SIGHUP)
        server.wait_for_line("generation 1 has left")
        assert version(server) == 3


def blocking(fifo: Fifo) -> str:
    """Return code that waits when it is imported."""
    return f"with open({str(fifo.path)!r}, 'rb', buffering=0) as end:\n    end.read(1)"


def test_a_reload_before_it_is_ready(site: Site, fifo: Fifo) -> None:
    """There is nothing to load again yet: it is said, and the start goes on."""
    site.deploy(1, blocking(fifo))
    with starting("app.py:Echo", "-b", TCP, cwd=site.folder) as server:
        eventually(lambda: (site.folder / "imports").exists())
        server.signal(signal.SIGHUP)
        server.wait_for_line(r"\[WARNING\] SIGHUP: the first generation is not ready yet")
        fifo.release()
        server.wait_until_ready(1)
        assert version(server) == 1
        assert len(site.imported_by()) == 1


def test_a_reload_during_a_reload(site: Site, fifo: Fifo) -> None:
    """It is remembered, however many there were: one more follows."""
    with site.running(MODE["prefork"]) as server:
        site.deploy(2, blocking(fifo))
        server.signal(signal.SIGHUP)
        becomes(2, lambda: len(site.imported_by()))
        site.deploy(3)
        for _ in range(3):
            server.signal(signal.SIGHUP)
        server.wait_for_line("SIGHUP: another reload is under way")
        fifo.release()
        server.wait_for_line("generation 3 is ready")
        server.wait_for_line("generation 2 has left")
        assert version(server) == 3
        assert len(site.imported_by()) == 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_a_stop_during_a_reload(number: signal.Signals, site: Site, fifo: Fifo) -> None:
    """The stop wins, whatever the new code is at."""
    with site.running(MODE["prefork"]) as server:
        site.deploy(2, blocking(fifo))
        server.signal(signal.SIGHUP)
        becomes(2, lambda: len(site.imported_by()))
        assert server.stop(number) == 0
    assert "generation 2 is ready" not in server.stderr_so_far()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT])
def test_a_stop_while_an_old_generation_drains(number: signal.Signals, site: Site) -> None:
    """All generations are stopped, and waited for."""
    with site.running(MODE["prefork"]) as server, clients.connect(server.address) as held:
        assert clients.command(held, "version") == "1"
        server.signal(signal.SIGHUP)
        server.wait_for_line("generation 2 is ready")
        server.signal(number)
        if number == signal.SIGTERM:
            assert clients.command(held, "version") == "1"
            held.close()
        assert server.wait() == 0


def test_a_reload_cut_short_by_the_drain_timeout(site: Site) -> None:
    """The old generation has the drain timeout for its connections, no more."""
    with (
        site.running(MODE["prefork"], "--drain-timeout", "0.5") as server,
        clients.connect(server.address) as held,
    ):
        assert clients.command(held, "version") == "1"
        server.signal(signal.SIGHUP)
        assert clients.ends(held)
        server.wait_for_line("generation 1 has left")
        assert version(server) == 1


def test_queued_clients_at_a_reload(fifo: Fifo) -> None:
    """Whoever waits in the queue is served by whoever comes first, and nobody is refused (F94)."""
    with (
        running(ACTS, "iterative") as server,
        clients.in_service(server.address, f"wait-for {fifo.path}") as busy,
        clients.several(server.address, 20) as queued,
    ):
        for client in queued:
            client.sendall(b"echo served\n")
            client.shutdown(socket.SHUT_WR)
        server.signal(signal.SIGHUP)
        assert [clients.read_to_end(client) for client in queued] == [b"served\n"] * 20
        fifo.release()
        assert clients.read_line(busy) == b"released\n"


# -- a leader that dies


@mostly_plain
def test_a_leader_that_is_killed(mode: Mode, site: Site) -> None:
    """The code on disk is served next; the orphaned workers finish what they have."""
    expect = "was killed by SIGKILL"
    with site.running(mode, expect=expect) as server, clients.connect(server.address) as held:
        assert clients.command(held, "version") == "1"
        leader = leader_of(server)
        orphans = workers_of(server)
        site.deploy(2)
        os.kill(leader, signal.SIGKILL)
        server.wait_for_line(
            rf"\[ERROR\] leader {leader} \(generation 1\) was killed by SIGKILL; "
            "starting generation 2 from the code on disk$"
        )
        server.wait_for_line("generation 2 is ready")
        assert clients.command(held, "version") == "1"
        held.close()
        assert all(processes.wait_until_gone(pid) for pid in orphans)
        assert version(server) == 2


@pytest.mark.parametrize("signals", [1, 2])
def test_a_stop_after_a_leader_was_killed(signals: int, site: Site) -> None:
    """Its orphans are waited for like all others, and hurried like all others."""
    with (
        site.running(MODE["prefork"], expect="was killed by SIGKILL") as server,
        clients.connect(server.address) as held,
    ):
        assert clients.command(held, "version") == "1"
        os.kill(leader_of(server), signal.SIGKILL)
        server.wait_for_line("generation 2 is ready")
        server.signal(signal.SIGTERM)
        server.wait_for_line("SIGTERM: stopping")
        assert clients.command(held, "version") == "1"
        if signals == 2:
            server.signal(signal.SIGTERM)
            assert clients.ends(held)
        held.close()
        assert server.wait() == 0


def test_a_leader_that_is_killed_again_and_again(site: Site) -> None:
    """Each time another generation comes, if not at once: clients wait and are served."""
    with site.running(MODE["prefork"], expect="was killed by SIGKILL") as server:
        for number in range(2, 5):
            os.kill(leader_of(server), signal.SIGKILL)
            assert version(server) == 1
            server.wait_for_line(f"generation {number} is ready")
            becomes(1, lambda: len(children(server.pid)))


def test_a_leader_that_is_killed_over_broken_code(site: Site) -> None:
    """Nobody serves, which is said, and tried again until the code is right."""
    expect = "was killed by SIGKILL|nobody serves|LookupError"
    with site.running(MODE["prefork"], expect=expect) as server:
        site.deploy(2, "raise LookupError")
        os.kill(leader_of(server), signal.SIGKILL)
        server.wait_for_line(r"LookupError.*; nobody serves, trying again in \d+\.\d s")
        site.deploy(3)
        assert version(server) == 3


def test_a_leader_that_is_stopped_by_somebody_else(site: Site) -> None:
    """TERM to the leader alone: it leaves in order, and another generation takes over."""
    with site.running(MODE["prefork"]) as server:
        leader = leader_of(server)
        os.kill(leader, signal.SIGTERM)
        server.wait_for_line(rf"leader {leader} \(generation 1\) was told to stop, not by us")
        server.wait_for_line("generation 2 is ready")
        assert version(server) == 1


@pytest.mark.parametrize("how", ["raise SystemExit(9)", "import os; os._exit(9)"])
def test_a_first_leader_that_dies(how: str, site: Site) -> None:
    """Before anybody was served it is given up; after that never (F35)."""
    site.deploy(1, how)
    expect = "SystemExit"
    with starting("app.py:Echo", "-b", TCP, cwd=site.folder, expect=expect) as server:
        assert server.wait() == (4 if "raise" in how else 3)
    errors = lines_of(server.stderr_so_far(), "^forkserve: error: ")
    assert len(errors) == 1
    assert "SystemExit: 9" in errors[0] or "exited with 9 before it was ready" in errors[0]


# -- workers that die


def killed_while_serving(server: Server, worker: int, *peers: str) -> None:
    """Kill a worker, and wait for the line that says whom that has hit."""
    os.kill(worker, signal.SIGKILL)
    held = ", ".join(rf"{re.escape(peer)} for \d+\.\d s" for peer in peers)
    server.wait_for_line(
        rf"\[ERROR\] worker {worker} was killed by SIGKILL while serving {held}; another one starts"
    )


@pytest.mark.parametrize("name", ["iterative", "thread", "prefork", "prefork-threads"])
def test_a_worker_that_is_killed_while_it_serves(name: str) -> None:
    """The log says who was served, and for how long."""
    with (
        running(ACTS, *MODE[name].arguments, expect="was killed") as server,
        clients.connect(server.address) as client,
    ):
        worker = int(clients.command(client, "pid"))
        killed_while_serving(server, worker, show(client))
        assert clients.ends(client)
        assert int(clients.ask_line(server.address, "pid")) != worker


def test_a_worker_that_is_killed_while_it_serves_a_path(tmp_path: Path) -> None:
    """The peer of a Unix socket has no name."""
    address = f"unix://{tmp_path}/s"
    with (
        running(ACTS, "prefork", "-w", "1", address=address, expect="was killed") as server,
        clients.connect(server.address) as client,
    ):
        killed_while_serving(server, int(clients.command(client, "pid")), "a Unix socket")


def test_a_worker_that_is_killed_while_it_serves_several() -> None:
    """Some of them are named, and the others counted."""
    with (
        running(ACTS, "thread", expect="was killed") as server,
        clients.several(server.address, 5) as held,
    ):
        (worker,) = {int(clients.command(client, "pid")) for client in held}
        os.kill(worker, signal.SIGKILL)
        line = server.wait_for_line(rf"worker {worker} was killed by SIGKILL while serving (.*);")
    assert line[1].endswith(" and 2 more")
    shown = re.findall(r"(127\.0\.0\.1:\d+) for \d+\.\d s", line[1])
    assert len(set(shown)) == 3


def test_an_idle_worker_that_is_killed() -> None:
    """It has hit nobody."""
    with running(ACTS, "prefork", "-w", "1", expect="was killed") as server:
        (worker,) = workers_of(server)
        os.kill(worker, signal.SIGKILL)
        server.wait_for_line(rf"worker {worker} was killed by SIGKILL; another one starts in")


def test_a_worker_that_leaves() -> None:
    """An exit status is shown as such."""
    with (
        running(DYING, "prefork", "-w", "1", expect="exited with 9") as server,
        clients.connect(server.address) as client,
    ):
        client.sendall(b"leave 9\n")
        assert clients.ends(client)
        server.wait_for_line(
            rf"worker \d+ exited with 9 while serving {re.escape(show(client))} for \d+\.\d s"
        )


@pytest.mark.parametrize(
    "mode", [m for m in MODES if not m.lasting], ids=lambda mode: str(mode.name)
)
@pytest.mark.parametrize("transport", ["tcp", "unix"])
def test_a_connections_process_that_is_killed(mode: Mode, transport: str, tmp_path: Path) -> None:
    """Its death costs one connection, and is said like a worker's."""
    address = TCP if transport == "tcp" else f"unix://{tmp_path}/s"
    with (
        running(ACTS, *mode.arguments, address=address, expect="was killed") as server,
        clients.several(server.address, 2) as (hit, other),
    ):
        pid = clients.command(hit, "pid")
        assert clients.command(other, "echo here") == "here"
        os.kill(int(pid), signal.SIGKILL)
        peer = show(hit) if transport == "tcp" else "a Unix socket"
        server.wait_for_line(
            rf"connection process {pid} was killed by SIGKILL while serving {re.escape(peer)}"
            r" for \d+\.\d s$"
        )
        assert clients.ends(hit)
        assert clients.command(other, "echo still") == "still"


def wait_for_lines(server: Server, pattern: str, count: int) -> None:
    """Wait until the log has so many lines that match."""
    becomes(count, lambda: len(lines_of(server.stderr_so_far(), pattern)))


def test_fewer_workers_than_wanted(tmp_path: Path) -> None:
    """While a worker cannot start, the server is degraded: it says so once, and when it is over."""
    (tmp_path / "app.py").write_text(
        "import os\n"
        "from tests.handlers.echo import Stream\n"
        "def open_pool():\n"
        "    if os.path.exists('broken'):\n"
        "        raise LookupError('no database')\n"
    )
    flags = ("-w", "2", "--worker-start", "app.py:open_pool")
    expect = "was killed|LookupError|exited with 1"
    with running("app.py:Stream", "prefork", *flags, cwd=tmp_path, expect=expect) as server:
        for number in (1, 2):
            (tmp_path / "broken").touch()
            os.kill(workers_of(server)[0], signal.SIGKILL)
            wait_for_lines(server, r"\[WARNING\] degraded 1/2: ", number)
            server.wait_for_line(r"another one starts in 0\.[248] s")
            assert clients.ask(server.address, b"hello") == b"hello"
            (tmp_path / "broken").unlink()
            wait_for_lines(server, r"\[INFO\] full strength again: 2/2$", number)
            assert len(workers_of(server)) == 2
    assert len(lines_of(server.stderr_so_far(), "degraded")) == 2


# -- a program that calls run() itself

LIBRARY = """
import logging
import sys
from forkserve import Server
from tests.handlers.acts import Stream
logging.basicConfig(level="INFO")
Server(Stream, sys.argv[-1], mode="prefork", workers=2, threads=8).run()
"""


@pytest.fixture
def program(tmp_path: Path) -> list[str]:
    """Return how to start a program that serves at the address that is its last argument."""
    path = tmp_path / "program.py"
    path.write_text(LIBRARY)
    return [sys.executable, str(path)]


def test_hangup_in_a_program(program: list[str]) -> None:
    """There is nobody to import the code again: the workers are replaced, and that is said."""
    with running(ACTS, under=program) as server, clients.connect(server.address) as held:
        worker = clients.command(held, "pid")
        old = children(server.pid)
        server.signal(signal.SIGHUP)
        server.wait_for_line("SIGHUP: replacing the workers; no new code")
        eventually(lambda: len(set(children(server.pid)) - set(old)) == 2)
        becomes("True", lambda: clients.command(held, "stopping"))
        assert clients.command(held, "pid") == worker
        held.close()
        becomes(set[int](), lambda: set(children(server.pid)) & set(old))
        assert int(clients.ask_line(server.address, "pid")) in children(server.pid)


def test_many_hangups_in_a_program(program: list[str]) -> None:
    """However many there are, nobody is lost, and there are not more and more workers."""
    with running(ACTS, under=program) as server:
        old = children(server.pid)
        with ExitStack() as held:
            for number in range(5):
                client = held.enter_context(clients.connect(server.address))
                assert clients.command(client, "echo here") == "here"
                server.signal(signal.SIGHUP)
                becomes(number + 1, lambda: server.stderr_so_far().count("SIGHUP: replacing"))
                assert clients.ask_line(server.address, "echo here") == "here"
                assert len(children(server.pid)) <= 4
        eventually(lambda: len(children(server.pid)) == 2, 10.0)
        eventually(lambda: not set(children(server.pid)) & set(old))
        assert clients.ask_line(server.address, "echo here") == "here"


# -- addresses that the code itself names

ADOPTED = """
import socketserver
from tests.handlers import acts
class Server(socketserver.KIND):
    allow_reuse_address = True
    def __init__(self):
        super().__init__(ADDRESS, CALL)
server = Server()
def open_pool():
    POOL
"""


class Home:
    """A module with a server object that binds its own address."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def deploy(
        self,
        address: object,
        kind: str = "TCPServer",
        call: str = "acts.StreamRequest",
        pool: str = "pass",
    ) -> None:
        """Write the module."""
        text = ADOPTED.replace("KIND", kind).replace("ADDRESS", repr(address))
        (self.folder / "app.py").write_text(text.replace("CALL", call).replace("POOL", pool))

    @contextmanager
    def running(self, *flags: str, expect: str | None = None) -> Iterator[Server]:
        """Serve it at home."""
        with starting("app.py:server", *flags, cwd=self.folder, expect=expect) as server:
            server.wait_until_ready(1)
            yield server


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """Return an empty folder for one."""
    return Home(tmp_path)


def listening(pid: int) -> set[str]:
    """Return the sockets of a process that listen, by the kernel's numbers."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    inodes = {f"socket:[{row[9]}]" for row in rows if row[3] == "0A"}
    return inodes & set(processes.descriptors(pid).values())


@mostly_plain
def test_a_port_of_the_kernels_choice_is_kept(mode: Mode, home: Home) -> None:
    """Over every reload it is the same, and the same socket: clients in the queue stay there."""
    home.deploy(("127.0.0.1", 0))
    with home.running("-m", *mode.arguments) as server:
        port = clients.port_of(server.address)
        first = listening(server.pid)
        for number in (2, 3, 4):
            reload(server, number)
            assert clients.port_of(server.address) == port
            assert clients.ask_line(server.address, "echo here") == "here"
            assert listening(server.pid) == listening(leader_of(server)) == first
    assert server.stderr_so_far().count("listening on") == 1


@pytest.mark.parametrize(
    "call",
    ["acts.StreamRequest", "RequestHandlerClass=acts.StreamRequest", "acts.StreamRequest, True"],
)
@pytest.mark.parametrize("kind", ["TCPServer", "ThreadingTCPServer", "ForkingTCPServer"])
def test_every_way_to_call_the_constructor(kind: str, call: str, home: Home) -> None:
    """What the standard library's constructor takes is taken at a reload as well."""
    home.deploy(("127.0.0.1", 0), kind, call)
    with home.running() as server:
        reload(server, 2)
        assert clients.ask_line(server.address, "echo here") == "here"


def test_a_path_is_kept(home: Home) -> None:
    """The file of a Unix socket stays the same one, and goes with the last generation."""
    path = home.folder / "s"
    home.deploy(str(path), "UnixStreamServer")
    with home.running() as server:
        inode = path.stat().st_ino
        for number in (2, 3):
            reload(server, number)
            assert path.stat().st_ino == inode
            assert clients.ask_line(server.address, "echo here") == "here"
    assert not path.exists()


def test_the_home_is_kept_when_the_leader_is_killed(home: Home) -> None:
    """The supervisor has it, so a port of the kernel's choice outlives whoever bound it."""
    home.deploy(("127.0.0.1", 0))
    with home.running(expect="was killed") as server:
        os.kill(leader_of(server), signal.SIGKILL)
        assert clients.ask_line(server.address, "echo here") == "here"
        server.wait_for_line("generation 2 is ready")


def test_the_home_is_kept_over_broken_code(home: Home) -> None:
    """A generation that fails has taken nothing away."""
    home.deploy(("127.0.0.1", 0))
    with home.running(expect="reload failed|LookupError|NameError") as server:
        home.deploy(("127.0.0.1", 0), call="nobody")
        server.signal(signal.SIGHUP)
        server.wait_for_line("reload failed")
        assert clients.ask_line(server.address, "echo here") == "here"
        home.deploy(("127.0.0.1", 0))
        server.signal(signal.SIGHUP)
        server.wait_for_line("generation 1 has left")
        assert clients.ask_line(server.address, "echo here") == "here"


def is_refused(address: str) -> bool:
    """Tell whether nobody listens there any more."""
    try:
        clients.connect(address, 5).close()
    except (ConnectionRefusedError, FileNotFoundError):
        return True
    return False


def free_ports(count: int) -> list[int]:
    """Return ports that were free just now."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [probe.getsockname()[1] for probe in probes]


@pytest.mark.parametrize("transport", ["tcp", "unix"])
def test_a_home_that_moves(transport: str, home: Home, fifo: Fifo) -> None:
    """Who waits at the old address is served there, then it is refused; the new one is served."""
    ports, paths = free_ports(2), [f"{home.folder}/{name}" for name in "ab"]
    is_tcp = transport == "tcp"
    places = [("127.0.0.1", port) for port in ports] if is_tcp else paths
    there = (
        [f"tcp://127.0.0.1:{port}" for port in ports] if is_tcp else [f"unix://{p}" for p in paths]
    )
    kind = "TCPServer" if is_tcp else "UnixStreamServer"
    home.deploy(places[0], kind)
    with (
        home.running("-m", "iterative") as server,
        clients.in_service(there[0], f"wait-for {fifo.path}") as busy,
        clients.several(there[0], 5) as queued,
    ):
        for client in queued:
            client.sendall(b"echo served\n")
            client.shutdown(socket.SHUT_WR)
        home.deploy(places[1], kind)
        server.signal(signal.SIGHUP)
        server.wait_for_line("generation 2 is ready")
        assert clients.ask_line(there[1], "echo here") == "here"
        fifo.release()
        assert clients.read_line(busy) == b"released\n"
        busy.close()
        assert [clients.read_to_end(client) for client in queued] == [b"served\n"] * 5
        server.wait_for_line("generation 1 has left")
        eventually(lambda: is_refused(there[0]))
        assert clients.ask_line(there[1], "echo here") == "here"


def test_a_home_that_moves_back(home: Home) -> None:
    """An address that was given up can be bound again."""
    ports = free_ports(2)
    home.deploy(("127.0.0.1", ports[0]))
    with home.running() as server:
        for number, port in enumerate([ports[1], ports[0], ports[1]], 2):
            home.deploy(("127.0.0.1", port))
            reload(server, number)
            assert clients.ask_line(f"tcp://127.0.0.1:{port}", "echo here") == "here"


def test_a_home_of_a_generation_that_never_serves(home: Home) -> None:
    """What a new generation has bound is given back when it fails; the old one keeps its own."""
    old, new = free_ports(2)
    home.deploy(("127.0.0.1", old))
    expect = "reload failed|LookupError"
    with home.running("-w", "1", "--worker-start", "app.py:open_pool", expect=expect) as server:
        home.deploy(("127.0.0.1", new), pool="raise LookupError")
        server.signal(signal.SIGHUP)
        server.wait_for_line("reload failed: .*LookupError.*; generation 1 goes on serving")
        assert clients.ask_line(server.address, "echo here") == "here"
        eventually(lambda: is_refused(f"tcp://127.0.0.1:{new}"))
        home.deploy(("127.0.0.1", new))
        server.signal(signal.SIGHUP)
        server.wait_for_line("generation 1 has left")
        assert clients.ask_line(f"tcp://127.0.0.1:{new}", "echo here") == "here"


OWN_NETWORK = ["unshare", "-n", "sh", "-c", 'ip link set lo up && exec "$0" "$@"']
ASK = """
import socket
with socket.create_connection(("127.0.0.1", 9000), 5) as client:
    client.sendall(b"echo here\\n")
    print(client.recv(100).decode(), end="")
"""


def ask_in_its_network(server: Server) -> str:
    """Be a client at the default address, in the network of a server's own."""
    enter = ["nsenter", "-t", str(server.pid), "-n", sys.executable, "-ISc", ASK]
    return subprocess.run(enter, capture_output=True, text=True, check=True, timeout=20).stdout


def test_the_default_address_is_kept() -> None:
    """Without -b it is bound once, by the first leader, and outlives it."""
    requires("unshare", "nsenter", "ip")
    requires_root()
    with starting(ACTS, "-w", "1", under=OWN_NETWORK) as server:
        server.wait_until_ready(1)
        assert server.address == "tcp://127.0.0.1:9000"
        assert ask_in_its_network(server) == "here\n"
        reload(server, 2)
        reload(server, 3)
        assert ask_in_its_network(server) == "here\n"
