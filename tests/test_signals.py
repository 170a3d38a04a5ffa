"""Signals to the server and deaths within it: what stops, what goes on, and how soon."""

import os
import re
import signal
import socket
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.support import clients, processes
from tests.support.faults import Fifo
from tests.support.modes import (
    ACTS,
    ECHO,
    KINDS,
    MODE,
    MODES,
    MOSTLY_PLAIN,
    PLAIN_MODES,
    Mode,
    named,
)
from tests.support.requirements import requires, requires_root
from tests.support.server import TCP, Server, adopted, handler, running, starting
from tests.support.waiting import Stopwatch, eventually, pause

IDLE = handler("idle.py:Marked")
BUSY = handler("idle.py:Unmarked")

every_mode = pytest.mark.parametrize("mode", MODES, ids=named(MODES))
mostly_plain = pytest.mark.parametrize("mode", MOSTLY_PLAIN)
every_plain_mode = pytest.mark.parametrize("mode", PLAIN_MODES, ids=named(PLAIN_MODES))
side_by_side = pytest.mark.parametrize(
    "mode", [mode for mode in MODES if mode.lanes > 1], ids=named([m for m in MODES if m.lanes > 1])
)
ACCEPTING = [mode for mode in MODES if mode.mode in {"thread", "process"}]


def is_refused(address: str) -> bool:
    """Tell whether nobody listens there any more."""
    try:
        clients.connect(address, 5).close()
    except (ConnectionRefusedError, FileNotFoundError):
        return True
    return False


@pytest.mark.smoke
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
@mostly_plain
def test_idle_server_stops_at_once(number: signal.Signals, mode: Mode) -> None:
    """An idle server ends within 200 ms, with status 0."""
    times = []
    for _ in range(3):
        with running(ECHO, *mode.arguments) as server:
            assert clients.ask(server.address, b"hello") == b"hello"
            watch = Stopwatch()
            assert server.stop(number) == 0
            times.append(watch.seconds)
            assert adopted() == []
    assert min(times) <= 0.2  # the others may have been kept waiting by other tests


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@mostly_plain
def test_what_runs_finishes(number: signal.Signals, mode: Mode, fifo: Fifo) -> None:
    """A handler at work at a stop finishes, and the log says that it is waited for."""
    with (
        running(ACTS, *mode.arguments) as server,
        clients.in_service(server.address, f"wait-for {fifo.path}") as busy,
    ):
        server.signal(number)
        server.wait_for_line(r"waiting for \d+")
        assert server.is_running()
        fifo.release()
        busy.shutdown(socket.SHUT_WR)
        assert clients.read_to_end(busy) == b"released\n"
        assert server.wait() == 0


@pytest.mark.parametrize("mode", ACCEPTING, ids=named(ACCEPTING))
def test_new_clients_are_refused_at_once(mode: Mode, fifo: Fifo) -> None:
    """While one handler is waited for, others who connect are refused, not left waiting (F88)."""
    with (
        running(ACTS, *mode.arguments) as server,
        clients.in_service(server.address, f"wait-for {fifo.path}") as busy,
    ):
        server.signal(signal.SIGTERM)
        eventually(lambda: is_refused(server.address))
        fifo.release()
        assert clients.read_line(busy) == b"released\n"


@every_mode
def test_queued_clients_are_served(mode: Mode, fifo: Fifo) -> None:
    """Clients that were in the queue when the stop came are served like any other (F88)."""
    with running(ACTS, *mode.arguments) as server:
        busy = [clients.connect(server.address, 30) for _ in range(min(mode.lanes, 8))]
        for client in busy:
            assert clients.command(client, f"announce wait-for {fifo.path}") == "started"
        queued = [clients.connect(server.address, 30) for _ in range(5)]
        for client in queued:
            client.sendall(b"echo served\n")
            client.shutdown(socket.SHUT_WR)
        server.signal(signal.SIGTERM)
        for client in busy:
            client.shutdown(socket.SHUT_WR)
        fifo.release(len(busy))
        assert [clients.read_to_end(client) for client in busy] == [b"released\n"] * len(busy)
        assert [clients.read_to_end(client) for client in queued] == [b"served\n"] * 5
        assert server.wait() == 0
        for client in busy + queued:
            client.close()


@every_mode
def test_idle_connections_end_at_once(mode: Mode) -> None:
    """Connections marked idle end as soon as the server is asked to stop (F91)."""
    with running(IDLE, *mode.arguments) as server:
        held = [clients.connect(server.address) for _ in range(min(mode.lanes, 5))]
        assert [clients.command(client, "hello") for client in held] == ["hello"] * len(held)
        watch = Stopwatch()
        server.signal(signal.SIGTERM)
        assert all(clients.ends(client) for client in held)
        assert server.wait() == 0
        assert watch.seconds < 5
        for client in held:
            client.close()


@side_by_side
def test_idle_connections_do_not_wait_for_busy_ones(mode: Mode, fifo: Fifo, tmp_path: Path) -> None:
    """An idle connection ends at once although another one is still at work (F91)."""
    source = (
        "from tests.handlers import acts, idle\n"
        "class Either(idle.Marked):\n"
        "    def handle(self):\n"
        "        if (line := self._next_line()) == b'idle\\n':\n"
        "            self.connection.send_all(line)\n"
        "            return super().handle()\n"
        "        self.connection.send_all(b'busy\\n')\n"
        f"        acts._wait_for({str(fifo.path)!r})\n"
        "        self.connection.send_all(b'done\\n')\n"
    )
    (tmp_path / "either.py").write_text(source)
    with running("either:Either", *mode.arguments, cwd=tmp_path) as server:
        with clients.connect(server.address) as idle, clients.connect(server.address) as busy:
            assert clients.command(idle, "idle") == "idle"
            assert clients.command(busy, "busy") == "busy"
            server.signal(signal.SIGTERM)
            assert clients.ends(idle)
            fifo.release()
            assert clients.read_to_end(busy) == b"done\n"
        assert server.wait() == 0


@mostly_plain
def test_drain_timeout_interrupts(mode: Mode) -> None:
    """At the drain timeout a handler that waits for its peer is interrupted, not killed (F90)."""
    with (
        running(BUSY, *mode.arguments, "--drain-timeout", "1") as server,
        clients.connect(server.address) as client,
    ):
        assert clients.command(client, "hello") == "hello"
        watch = Stopwatch()
        server.signal(signal.SIGTERM)
        assert clients.ends(client)
        assert 0.8 <= watch.seconds < 5
        assert server.wait() == 0


@every_mode
def test_connection_stays_usable_while_draining(mode: Mode) -> None:
    """A connection that is not idle goes on until a second signal hurries it."""
    with running(ACTS, *mode.arguments) as server, clients.connect(server.address) as client:
        assert clients.command(client, "stopping") == "False"
        server.signal(signal.SIGTERM)
        eventually(lambda: clients.command(client, "stopping") == "True")
        assert clients.command(client, "echo still") == "still"
        watch = Stopwatch()
        server.signal(signal.SIGTERM)
        assert clients.ends(client)
        assert server.wait() == 0
        assert watch.seconds < 5


@pytest.mark.parametrize("how", ["timeout", "second", "quit"])
@mostly_plain
def test_handler_that_cannot_be_interrupted_is_killed(how: str, mode: Mode, fifo: Fifo) -> None:
    """A handler that no interruption reaches is killed in the end, and the status is still 0."""
    timeout = "1" if how == "timeout" else "30"
    expect = "kill"
    with (
        running(ACTS, *mode.arguments, "--drain-timeout", timeout, expect=expect) as server,
        clients.in_service(server.address, f"wait-for {fifo.path}") as busy,
    ):
        watch = Stopwatch()
        server.signal(signal.SIGQUIT if how == "quit" else signal.SIGTERM)
        if how == "second":
            server.wait_for_line("(?i)wait")
            server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert watch.seconds < 10
        assert clients.ends(busy)


@pytest.mark.parametrize("times", [2, 5])
@every_plain_mode
def test_many_terms_are_one_stop(times: int, mode: Mode) -> None:
    """However many signals come, an idle server stops once (F69)."""
    with running(ECHO, *mode.arguments) as server:
        for _ in range(times):
            with suppress(ProcessLookupError):
                server.signal(signal.SIGTERM)
        assert server.wait() == 0


@pytest.mark.parametrize("moment", [0.0, 0.01, 0.05, 0.2])
@every_mode
def test_term_while_starting(moment: float, mode: Mode, tmp_path: Path) -> None:
    """From its first line on the server obeys TERM at every moment, and leaves nothing (F70)."""
    binds = ["-b", TCP, "-b", f"unix://{tmp_path}/s"]
    with starting(ECHO, "-m", mode.mode, *mode.flags, *binds) as server:
        eventually(lambda: processes.catches(server.pid, signal.SIGTERM))
        pause(moment)
        assert server.stop() == 0
        assert adopted() == []
        assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("moment", [1, 2])
@pytest.mark.parametrize("call", ["bind", "listen", "rename", "clone", "pipe2"])
def test_term_at_a_step_of_the_start(call: str, moment: int, tmp_path: Path) -> None:
    """A TERM that comes with a certain system call of the start leaves nothing either (F70)."""
    requires("strace")
    inject = ["-e", f"trace={call}", "-e", f"inject={call}:signal=SIGTERM:when={moment}"]
    under = ["strace", "-D", "-qq", "-o", "/dev/null", *inject]
    binds = ["-b", f"unix://{tmp_path}/a", "-b", TCP, "-b", f"unix://{tmp_path}/b"]
    with starting(ECHO, "-w", "2", *binds, under=under) as server:
        with suppress(AssertionError):
            server.wait_until_ready(3)  # where there is no such call, or where it came too late
        assert server.stop() == 0
        assert adopted() == []
        assert processes.socket_files(tmp_path) == []


@every_plain_mode
def test_term_at_birth(mode: Mode, tmp_path: Path) -> None:
    """A TERM before the program's first line ends it as the kernel does, and leaves nothing."""
    with starting(ECHO, "-m", mode.mode, "-b", f"unix://{tmp_path}/s") as server:
        assert server.stop() in {0, -signal.SIGTERM}
        assert adopted() == []
        assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("moment", [0.0, 0.01, 0.05, 0.2])
def test_term_as_the_first_process_of_a_container(moment: float) -> None:
    """As PID 1, to which the kernel is deaf by default, the server obeys TERM (F61)."""
    requires("unshare")
    requires_root()
    under = ["unshare", "-pf", "--mount-proc", "--kill-child"]
    with starting(ECHO, "-b", TCP, under=under, nested=True) as server:
        eventually(lambda: _first_of_the_container_catches(server))
        pause(moment)
        assert server.stop() == 0


def _first_of_the_container_catches(server: Server) -> bool:
    try:
        return processes.catches(server.pid, signal.SIGTERM)
    except IndexError:
        return False


def test_serves_as_the_first_process_of_a_container() -> None:
    """As PID 1 the server serves and replaces its workers as anywhere else."""
    requires("unshare")
    requires_root()
    under = ["unshare", "-pf", "--mount-proc", "--kill-child"]
    with running(ACTS, "prefork", "-w", "2", under=under, nested=True, expect="worker") as server:
        first = clients.ask_line(server.address, "pid")
        with clients.connect(server.address) as client:
            client.sendall(b"kill 9\n")
            assert clients.ends(client)
        assert clients.ask_line(server.address, "echo here") == "here"
        assert int(first) < 100


def test_interrupt_from_the_terminal_under_load() -> None:
    """A Ctrl-C, which every process of the group gets, is one clean stop under load (F82)."""
    with (
        running(ECHO, "prefork", "-w", "2", "--threads", "4") as server,
        load(server.address, 8) as outcomes,
    ):
        eventually(lambda: outcomes["served"] > 50)
        os.killpg(server.pid, signal.SIGINT)
        assert server.wait() == 0
    assert outcomes["lost"] == 0 or os.geteuid() != 0
    assert "KeyboardInterrupt" not in server.stderr_so_far()


@contextmanager
def load(address: str, count: int) -> Iterator[Counter[str]]:
    """Be so many clients one after another, and count how each connection went."""
    outcomes: Counter[str] = Counter()
    enough = threading.Event()

    def work() -> None:
        while not enough.is_set():
            outcomes[one_connection(address)] += 1

    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield outcomes
    finally:
        enough.set()
        for thread in threads:
            thread.join()


def one_connection(address: str) -> str:
    """Say how a connection of an echo client went."""
    try:
        # What a closed port dropped is sent again after a second: waiting for it shows nothing.
        client = clients.connect(address, 0.25)
    except (ConnectionRefusedError, FileNotFoundError, BlockingIOError, TimeoutError):
        return "refused"
    except ConnectionResetError:
        return "reset while connecting"
    with client:
        client.settimeout(5)
        try:
            client.sendall(b"x" * 1000)
            client.shutdown(socket.SHUT_WR)
            return "served" if clients.read_to_end(client) == b"x" * 1000 else "lost"
        except OSError:
            return "lost"


STOPS = 30


@pytest.mark.heavy
@pytest.mark.timeout(300)
@pytest.mark.parametrize("transport", ["tcp", "unix"])
@every_mode
def test_stops_lose_no_connection(mode: Mode, transport: str, tmp_path: Path) -> None:
    """In 30 stops under 16 clients everyone whose connect succeeded is served (F88)."""
    requires_root()
    address = TCP if transport == "tcp" else f"unix://{tmp_path}/s"
    total: Counter[str] = Counter()
    for _ in range(STOPS):
        with running(ECHO, *mode.arguments, address=address) as server:
            with load(server.address, 16) as outcomes:
                eventually(lambda: outcomes["served"] > 30)
                assert server.stop() == 0
            total += outcomes
    assert total["lost"] == 0, total


@pytest.mark.parametrize("number", ["HUP", "USR1", "USR2", "TTIN", "TTOU"])
@every_plain_mode
def test_other_signals_do_not_stop_the_service(number: str, mode: Mode) -> None:
    """A signal that means something else, built yet or not, ends neither server nor connection."""
    with running(ACTS, *mode.arguments) as server:
        with clients.connect(server.address) as client:
            assert clients.command(client, "echo before") == "before"
            server.signal(getattr(signal, f"SIG{number}"))
            assert clients.command(client, "echo after") == "after"
        assert clients.ask_line(server.address, "echo new") == "new"
        assert server.is_running()


def test_ignored_child_signal() -> None:
    """A server whose parent ignores SIGCHLD still notices its dead workers (F86)."""
    under = ["sh", "-c", "trap '' CHLD; exec \"$@\"", "sh"]
    with running(ACTS, "prefork", "-w", "1", under=under, expect="worker") as server:
        first = clients.ask_line(server.address, "pid")
        with clients.connect(server.address) as client:
            client.sendall(b"kill 9\n")
            assert clients.ends(client)
        assert clients.ask_line(server.address, "pid") != first


def test_ignored_child_signal_in_process_mode() -> None:
    """A server whose parent ignores SIGCHLD collects the children of its connections (F86)."""
    under = ["sh", "-c", "trap '' CHLD; exec \"$@\"", "sh"]
    with running(ACTS, "process", under=under) as server:
        family = len(server.processes())
        for _ in range(5):
            assert clients.ask_line(server.address, "echo here") == "here"
        eventually(lambda: len(server.processes()) == family)


DEAF = (
    "import os, signal, sys; numbers = {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT};"
    "signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals());"
    "[signal.signal(number, signal.SIG_IGN) for number in numbers];"
    "os.execv(sys.argv[1], sys.argv[1:])"
)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
@every_plain_mode
def test_inherited_deafness(number: signal.Signals, mode: Mode) -> None:
    """A server started with every signal blocked and TERM ignored stops all the same (F87)."""
    with running(ACTS, *mode.arguments, under=[sys.executable, "-c", DEAF]) as server:
        assert clients.ask_line(server.address, "echo here") == "here"
        assert server.stop(number) == 0


@mostly_plain
def test_deaf_handler_does_not_delay_the_stop(mode: Mode) -> None:
    """A handler that blocks signals in its process does not keep the server from stopping (F48)."""
    with running(ACTS, *mode.arguments, "--drain-timeout", "1", expect="kill") as server:
        assert clients.ask_line(server.address, "deaf") == "deaf"
        watch = Stopwatch()
        assert server.stop() == 0
        assert watch.seconds < 10


@every_mode
def test_killed_supervisor_takes_everybody_along(mode: Mode) -> None:
    """A second after its supervisor was killed no idle process is left, the port free (F64)."""
    with running(ACTS, *mode.arguments, status=None) as server:
        assert clients.ask_line(server.address, "echo here") == "here"
        family = server.family()
        watch = Stopwatch()
        server.kill()
        for process in family:
            assert processes.wait_until_gone(process.pid, max(0, 1 - watch.seconds)), process
        with socket.create_server(("127.0.0.1", clients.port_of(server.address))):
            pass


@every_mode
def test_killed_supervisor_with_a_busy_handler(mode: Mode, fifo: Fifo) -> None:
    """A busy handler finishes although the supervisor is dead, then all leave (F64)."""
    with running(ACTS, *mode.arguments, status=None) as server:
        with clients.in_service(server.address, f"wait-for {fifo.path}") as busy:
            family = server.family()
            server.kill()
            fifo.release()
            assert clients.read_line(busy) == b"released\n"
        watch = Stopwatch()
        for process in family:
            assert processes.wait_until_gone(process.pid, max(0, 2 - watch.seconds)), process


SIGNALS = ["KILL", "SEGV", "ABRT", "BUS", "ILL", "FPE", "TRAP", "XCPU"]


@pytest.mark.parametrize("name", SIGNALS)
def test_worker_killed_by_a_signal(name: str) -> None:
    """A worker that dies by a signal is replaced, and the others' connections go on (F40, F41)."""
    number = getattr(signal, f"SIG{name}")
    with (
        running(ACTS, "prefork", "-w", "2", expect="worker") as server,
        clients.connect(server.address) as other,
        clients.connect(server.address) as victim,
    ):
        kept, doomed = (clients.command(client, "pid") for client in (other, victim))
        victim.sendall(f"kill {int(number)}\n".encode())
        assert clients.ends(victim)
        server.wait_for_line(rf"\b{doomed}\b.*(?:SIG)?{name}|(?:SIG)?{name}.*\b{doomed}\b")
        assert clients.command(other, "pid") == kept
        with clients.connect(server.address) as new:
            assert clients.command(new, "pid") not in {kept, doomed}
        assert clients.command(other, "pid") == kept


@pytest.mark.parametrize("code", [0, 1, 3, 4, 255])
def test_worker_left_by_its_handler(code: int) -> None:
    """An exit status that a handler chose means nothing to the server but a dead worker (F42)."""
    with running(ACTS, "prefork", "-w", "2", expect="worker") as server:
        with clients.connect(server.address) as other, clients.connect(server.address) as victim:
            kept, doomed = (clients.command(client, "pid") for client in (other, victim))
            victim.sendall(f"leave {code}\n".encode())
            assert clients.ends(victim)
            server.wait_for_line(rf"\b{doomed}\b")
            with clients.connect(server.address) as new:
                assert clients.command(new, "pid") not in {kept, doomed}
            assert clients.command(other, "pid") == kept
        assert server.is_running()


@pytest.mark.parametrize("way", ["kill 9", "kill 11", "leave 0", "leave 3"])
@mostly_plain
def test_death_costs_what_the_process_served(way: str, mode: Mode) -> None:
    """In every mode the next client is served after a handler's process has died (F40-F42)."""
    with running(ACTS, *mode.arguments, expect="worker|child|process") as server:
        for _ in range(3):
            with clients.connect(server.address) as client:
                client.sendall(f"{way}\n".encode())
                assert clients.ends(client)
            assert clients.ask_line(server.address, "echo here") == "here"
        eventually(lambda: all(process.state != "Z" for process in server.processes()))


def test_idle_workers_take_turns() -> None:
    """400 connections one after another come out even over four idle workers (F15)."""
    served: Counter[str] = Counter()
    with running(ACTS, "prefork", "-w", "4") as server:
        for _ in range(400):
            served[clients.ask_line(server.address, "pid")] += 1
            pause(0.002)  # or the worker is not idle yet when the next client comes
    assert len(served) == 4
    assert max(served.values()) / min(served.values()) <= 1.2


def _shutdown(server: Server) -> None:
    with clients.connect(server.address) as client:
        client.sendall(b"shutdown\n")
        client.shutdown(socket.SHUT_WR)
        clients.read_to_end(client)


@pytest.mark.parametrize("kind", KINDS[2:], ids=named(KINDS[2:]))
@every_mode
def test_handler_shuts_the_server_down(kind: object, mode: Mode, tmp_path: Path) -> None:
    """`self.server.shutdown()` of a stock handler stops the server in order."""
    target = kind.acts  # type: ignore[attr-defined]
    with running(target, *mode.arguments) as server:
        _shutdown(server)
        assert server.wait() == 0


@pytest.mark.parametrize("act", ["burn 0.5", "burn 20"])
@pytest.mark.parametrize("name", ["thread", "prefork-threads"])
def test_thread_in_a_long_computation(act: str, name: str) -> None:
    """A thread that computes in C finishes after TERM and is cut off by QUIT (F84)."""
    mode = MODE[name]
    with (
        running(ACTS, *mode.arguments, expect="kill") as server,
        clients.in_service(server.address, act) as client,
    ):
        watch = Stopwatch()
        server.signal(signal.SIGTERM if act == "burn 0.5" else signal.SIGQUIT)
        if act == "burn 0.5":
            client.shutdown(socket.SHUT_WR)
            assert clients.read_to_end(client) == b"burnt\n"
        assert server.wait() == 0
        assert watch.seconds < 10


SHOWS = 100
OUTERMOST = r" in _run_module_as_main$"  # of the first thread, and so the last line of an answer


@mostly_plain
def test_stacks_are_written_and_nothing_is_harmed(mode: Mode) -> None:
    """USR2 to a worker says where its threads are, however busy they are with others."""
    with running(ECHO, *mode.arguments) as server:
        leader = server.processes()[1].pid
        workers = [one.pid for one in server.processes() if one.parent == leader]
        with load(server.address, 8) as outcomes:
            for number in range(1, SHOWS + 1):
                os.kill(workers[0], signal.SIGUSR2)
                server.wait_for_line(OUTERMOST, count=number)
        assert outcomes["lost"] == 0
        assert [one.pid for one in server.processes() if one.parent == leader] == workers


def test_stacks_are_written_whole() -> None:
    """USR2 while an answer is being written is answered after it."""
    with running(ECHO, "thread") as server, clients.several(server.address, 16) as served:
        for client in served:  # each by a thread: an answer is too long to be written at once
            client.sendall(b"x")
            clients.read_exactly(client, 1)
        worker = server.processes()[2].pid
        for number in range(1, SHOWS + 1):
            os.kill(worker, signal.SIGUSR2)
            server.wait_for_line(r"^stacks of", count=number)  # of which the rest may be to come
        server.wait_for_line(OUTERMOST, count=SHOWS)
    said = server.stderr_so_far()
    edges = re.findall(rf"^stacks of|{OUTERMOST}", said, re.MULTILINE)
    assert edges == ["stacks of", " in _run_module_as_main"] * SHOWS
