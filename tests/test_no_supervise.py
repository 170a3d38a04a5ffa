"""--no-supervise: everything in the one process that was started, for debuggers."""

import json
import os
import pty
import signal
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.support import clients, processes
from tests.support.faults import Fifo
from tests.support.modes import (
    ACTS,
    ECHO,
    KINDS,
    MODES,
    Kind,
    Mode,
    named,
)
from tests.support.server import TCP, handler, run_command, running, starting
from tests.support.waiting import Stopwatch, becomes, eventually, pause

ALONE = "--no-supervise"
BUSY = handler("idle.py:Unmarked")
IDLE = handler("idle.py:Marked")

# As everywhere, but one worker: it is this process.
ALONE_MODES = [
    Mode("prefork", "prefork", lanes=1),
    Mode("prefork-threads", "prefork", ("--threads", "4"), lanes=4),
    *(mode for mode in MODES if mode.mode != "prefork"),
]
every_mode = pytest.mark.parametrize(
    "mode",
    [
        pytest.param(mode, id=mode.name, marks=() if mode.name == mode.mode else pytest.mark.heavy)
        for mode in ALONE_MODES
    ],
)
IN_ONE_PROCESS = [mode for mode in ALONE_MODES if mode.lasting]
in_one_process = pytest.mark.parametrize("mode", IN_ONE_PROCESS, ids=named(IN_ONE_PROCESS))


# -- who serves


@in_one_process
def test_the_command_serves_itself(mode: Mode) -> None:
    """One process: no supervisor, no leader, no worker."""
    with running(ACTS, *mode.arguments, ALONE) as server:
        answers = {clients.ask_line(server.address, "pid") for _ in range(5)}
        assert answers == {str(server.pid)}
        assert server.family() == []


@pytest.mark.parametrize(
    "mode", [m for m in ALONE_MODES if not m.lasting], ids=lambda mode: str(mode.name)
)
def test_connections_in_processes_are_the_commands_children(mode: Mode) -> None:
    """In process mode the command forks for each connection itself."""
    with running(ACTS, *mode.arguments, ALONE) as server:
        with clients.several(server.address, 3) as held:
            serving = {clients.command(client, "pid") for client in held}
            assert {clients.command(client, "parent") for client in held} == {str(server.pid)}
        assert len(serving) == 3
        assert str(server.pid) not in serving


@pytest.mark.parametrize("kind", KINDS, ids=named(KINDS))
@pytest.mark.parametrize("mode", ["thread", "process"])
def test_every_kind_of_handler(kind: Kind, mode: str) -> None:
    """Whatever can be served can be served like this."""
    with running(kind.echo, mode, ALONE) as server:
        payload = os.urandom(100_000)
        assert clients.ask(server.address, payload) == payload


def test_a_server_object() -> None:
    """An adopted server's own address is served."""
    with starting(handler("servers.py:tcp"), "-m", "iterative", ALONE) as server:
        server.wait_until_ready(1)
        assert clients.ask_line(server.address, "pid") == str(server.pid)


@pytest.mark.parametrize("mode", ["iterative", "thread", "process"])
def test_datagrams(mode: str) -> None:
    """Datagrams too."""
    with running(handler("datagrams.py:Echo"), mode, ALONE, address="udp://127.0.0.1:0") as server:
        assert clients.ask_datagram(server.address, "hello") == "hello"


def test_a_descriptor_that_tells_the_address(tmp_path: Path) -> None:
    """--ready-fd works as ever."""
    reader, writer = os.pipe()
    flags = ("--ready-fd", str(writer), ALONE)
    with running(ECHO, "iterative", *flags, pass_fds=[writer]) as server:
        os.close(writer)
        with open(reader, "rb") as ready:
            assert ready.read().decode() == f"{server.address}\n"


def test_by_environment() -> None:
    """FORKSERVE_NO_SUPERVISE says the same."""
    with running(ACTS, "prefork", env={"FORKSERVE_NO_SUPERVISE": "yes"}) as server:
        assert clients.ask_line(server.address, "pid") == str(server.pid)


@pytest.mark.parametrize(
    ("flags", "env", "status"),
    [
        ((ALONE, "-w", "2"), {}, 2),
        ((ALONE,), {"FORKSERVE_WORKERS": "2"}, 78),
        (("-w", "2"), {"FORKSERVE_NO_SUPERVISE": "1"}, 78),
        ((ALONE, "--reload"), {}, 2),
        ((ALONE,), {"FORKSERVE_RELOAD": "1"}, 78),
    ],
)
def test_what_contradicts_it(flags: tuple[str, ...], env: dict[str, str], status: int) -> None:
    """Several workers, or a reload, need a process above."""
    done = run_command("run", ECHO, "-b", TCP, *flags, env=env)
    assert (done.returncode, done.stderr.count("\n")) == (status, 1)
    assert "--no-supervise" in done.stderr


@every_mode
def test_one_worker_is_no_contradiction(mode: Mode) -> None:
    """-w 1 is what it does anyway."""
    with running(ECHO, *mode.arguments, "-w", "1", ALONE) as server:
        assert clients.ask(server.address, b"hello") == b"hello"


# -- a debugger's terminal

ASKING = """
import sys
import forkserve

class Ask(forkserve.StreamHandler):
    def handle(self):
        print("what now?", flush=True)
        self.connection.send_all(sys.stdin.readline().encode())

class Debug(forkserve.StreamHandler):
    def handle(self):
        answer = 42
        breakpoint()
        self.connection.send_all(f"{answer}\\n".encode())
"""


class Terminal:
    """A terminal at which somebody sits."""

    def __init__(self) -> None:
        self._ours, self._theirs = pty.openpty()
        name = os.ttyname(self._theirs)
        # The first terminal that the leader of a session opens is its own: Ctrl-C reaches it.
        self.under = ["sh", "-c", f'exec "$0" "$@" <{name}']

    def type(self, text: str) -> None:
        """Type on the keyboard."""
        os.write(self._ours, text.encode())

    def close(self) -> None:
        """Hang up."""
        os.close(self._ours)
        os.close(self._theirs)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    """Return a terminal."""
    with closing(Terminal()) as terminal:
        yield terminal


@pytest.fixture
def asking(tmp_path: Path) -> Path:
    """Return the folder of a handler that asks at the terminal."""
    (tmp_path / "asking.py").write_text(ASKING)
    return tmp_path


@in_one_process
def test_a_handler_has_the_terminal(mode: Mode, asking: Path, terminal: Terminal) -> None:
    """A handler that reads sys.stdin gets what is typed."""
    target = "asking.py:Ask"
    with (
        running(target, *mode.arguments, ALONE, cwd=asking, under=terminal.under) as server,
        clients.connect(server.address) as client,
    ):
        becomes("what now?\n", server.stdout_so_far)
        terminal.type("go on\n")
        assert clients.read_line(client) == b"go on\n"


@pytest.mark.parametrize("mode", ["iterative", "prefork"])
def test_a_debugger(mode: str, asking: Path, terminal: Terminal) -> None:
    """breakpoint() in a handler stops there, shows, changes and goes on."""
    target = "asking.py:Debug"
    with (
        running(target, mode, ALONE, cwd=asking, under=terminal.under) as server,
        clients.connect(server.address) as client,
    ):
        eventually(lambda: "(Pdb)" in server.stdout_so_far())
        terminal.type("p answer + 1000\n")
        eventually(lambda: "1042" in server.stdout_so_far())
        terminal.type("answer = 43\n")
        terminal.type("continue\n")
        assert clients.read_line(client) == b"43\n"


def test_ctrl_c_at_the_terminal(terminal: Terminal) -> None:
    """Ctrl-C is one orderly stop, without a traceback."""
    with running(ECHO, "iterative", ALONE, under=terminal.under) as server:
        assert clients.ask(server.address, b"hello") == b"hello"
        terminal.type("\x03")
        assert server.wait() == 0
    assert "KeyboardInterrupt" not in server.stderr_so_far()


# -- stopping


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@every_mode
def test_what_runs_finishes(number: signal.Signals, mode: Mode, fifo: Fifo) -> None:
    """A handler at work finishes, then the command ends with 0 and leaves no child."""
    with (
        running(ACTS, *mode.arguments, ALONE) as server,
        clients.in_service(server.address, f"wait-for {fifo.path}") as busy,
    ):
        server.signal(number)
        fifo.release()
        assert clients.read_line(busy) == b"released\n"
        becomes("True", lambda: clients.command(busy, "stopping"))
        busy.shutdown(socket.SHUT_WR)
        assert server.wait() == 0


@every_mode
def test_queued_clients_are_served(mode: Mode, fifo: Fifo) -> None:
    """Clients that were in the queue when the stop came are served like any other."""
    count = min(mode.lanes, 4)
    bound = ("--max-connections", "4") if mode.lanes > count else ()
    with (
        running(ACTS, *mode.arguments, *bound, ALONE) as server,
        clients.several(server.address, count) as busy,
    ):
        for client in busy:
            assert clients.command(client, f"announce wait-for {fifo.path}") == "started"
        with clients.several(server.address, 5) as queued:
            for client in queued:
                client.sendall(b"echo served\n")
                client.shutdown(socket.SHUT_WR)
            server.signal(signal.SIGTERM)
            for client in busy:
                client.shutdown(socket.SHUT_WR)
            fifo.release(count)
            assert [clients.read_to_end(client) for client in busy] == [b"released\n"] * count
            assert [clients.read_to_end(client) for client in queued] == [b"served\n"] * 5
        assert server.wait() == 0


@pytest.mark.parametrize("threads", ["2", "4", "8"])
def test_as_many_threads_as_the_whole_server_may_have(threads: str) -> None:
    """--max-connections is this one process's alone, however many CPUs there are."""
    flags = ("--threads", threads, "--max-connections", threads, ALONE)
    # `auto` is more than one worker wherever there is more than one CPU.
    with (
        running(ACTS, "prefork", *flags, expect="Stop") as server,
        clients.several(server.address, int(threads)) as held,
    ):
        assert {clients.command(client, "echo here") for client in held} == {"here"}


@every_mode
def test_idle_connections_end_at_once(mode: Mode) -> None:
    """Connections marked idle are not waited for."""
    with running(IDLE, *mode.arguments, ALONE) as server, clients.connect(server.address) as held:
        assert clients.command(held, "hello") == "hello"
        watch = Stopwatch()
        server.signal(signal.SIGTERM)
        assert clients.ends(held)
        assert server.wait() == 0
        assert watch.seconds < 5


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
@every_mode
def test_a_second_signal_hurries(second: signal.Signals, mode: Mode) -> None:
    """A connection that goes on after the first is interrupted by the second."""
    with running(ACTS, *mode.arguments, ALONE) as server, clients.connect(server.address) as held:
        assert clients.command(held, "stopping") == "False"
        server.signal(signal.SIGTERM)
        eventually(lambda: clients.command(held, "stopping") == "True")
        server.signal(second)
        assert clients.ends(held)
        assert server.wait() == 0


@every_mode
def test_quit_hurries(mode: Mode) -> None:
    """QUIT interrupts what runs at once."""
    with running(BUSY, *mode.arguments, ALONE) as server, clients.connect(server.address) as held:
        assert clients.command(held, "hello") == "hello"
        watch = Stopwatch()
        server.signal(signal.SIGQUIT)
        assert clients.ends(held)
        assert server.wait() == 0
        assert watch.seconds < 5


@every_mode
def test_the_drain_timeout_hurries(mode: Mode) -> None:
    """What has not ended by the drain timeout is interrupted."""
    with (
        running(BUSY, *mode.arguments, "--drain-timeout", "0.5", ALONE) as server,
        clients.connect(server.address) as held,
    ):
        assert clients.command(held, "hello") == "hello"
        watch = Stopwatch()
        server.signal(signal.SIGTERM)
        assert clients.ends(held)
        assert server.wait() == 0
        assert 0.4 < watch.seconds < 5


def test_a_connection_timeout_holds_while_draining() -> None:
    """In process mode a connection that is overdue is cut, also after a stop was asked for."""
    flags = ("--connection-timeout", "1", "--drain-timeout", "6", ALONE)
    with (
        running(BUSY, "process", *flags, expect="timeout") as server,
        clients.connect(server.address) as held,
    ):
        assert clients.command(held, "hello") == "hello"
        watch = Stopwatch()
        server.signal(signal.SIGTERM)
        assert clients.ends(held)
        assert watch.seconds < 4
        assert server.wait() == 0


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1, signal.SIGTTIN, signal.SIGTTOU])
@pytest.mark.parametrize("mode", ["iterative", "thread", "process"])
def test_requests_do_nothing(number: signal.Signals, mode: str) -> None:
    """There is nobody who could be replaced; the server goes on."""
    with running(ECHO, mode, ALONE) as server:
        server.signal(number)
        assert clients.ask(server.address, b"hello") == b"hello"


@every_mode
def test_a_unix_socket_is_removed(mode: Mode, tmp_path: Path) -> None:
    """The process owns what it has bound."""
    with running(ECHO, *mode.arguments, ALONE, address=f"unix://{tmp_path}/s") as server:
        assert clients.ask(server.address, b"hello") == b"hello"
    assert not (tmp_path / "s").exists()


@every_mode
def test_nobody_outlives_it(mode: Mode) -> None:
    """If it is killed, the processes of its connections go as well."""
    with running(BUSY, *mode.arguments, ALONE, status=-signal.SIGKILL) as server:
        with clients.connect(server.address) as held:
            assert clients.command(held, "hello") == "hello"
            children = [one.pid for one in server.family()]
            server.kill()
        assert all(processes.wait_until_gone(pid) for pid in children)


# -- starting


def test_an_address_in_use() -> None:
    """The failures have the same status as ever."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        done = run_command("run", ECHO, "-b", f"127.0.0.1:{port}", ALONE)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "cannot listen" in done.stderr


def test_a_target_that_is_not_there() -> None:
    """So does a target that cannot be imported."""
    done = run_command("run", "nothing.py:Nobody", "-b", TCP, ALONE)
    assert (done.returncode, done.stderr.count("\n")) == (4, 1)


@every_mode
def test_hooks(mode: Mode, tmp_path: Path) -> None:
    """All hooks run, here, once and in order."""
    journal = tmp_path / "journal"
    with running(
        handler("hooked.py:Hooked"), *mode.arguments, ALONE, env={"JOURNAL": str(journal)}
    ) as server:
        clients.ask_json(server.address, "tell")
        pid, parent = server.pid, os.getpid()
    calls = [json.loads(line) for line in journal.read_text().splitlines()]
    names = ("leader_start", "worker_start", "worker_stop")
    assert [(name.partition(".")[2], *more) for name, *more in calls] == [
        (name, pid, parent) for name in names
    ]


@pytest.mark.parametrize("hook", ["leader", "worker"])
@pytest.mark.parametrize("function", ["raises", "exits"])
def test_a_hook_that_raises(hook: str, function: str) -> None:
    """The server does not start; status 3, the reason, and where."""
    flags = (f"--{hook}-start", f"{handler('hooked.py')}:{function}")
    done = run_command("run", handler("hooked.py:Tell"), "-b", TCP, *flags, ALONE)
    assert done.returncode == 3
    assert done.stderr.count("forkserve: error:") == 1
    assert "hooked.py" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("hook", ["leader", "worker"])
def test_a_hook_that_hangs(hook: str, number: signal.Signals, tmp_path: Path) -> None:
    """A start that hangs can be ended by whoever has started it."""
    code = tmp_path / "app.py"
    code.write_text(
        "import sys, threading\n"
        "from tests.handlers.echo import Stream\n"
        "def hangs():\n"
        "    print('hanging', flush=True)\n"
        "    threading.Event().wait()\n"
    )
    with starting(
        "app.py:Stream", "-b", TCP, f"--{hook}-start", "app.py:hangs", ALONE, cwd=tmp_path
    ) as server:
        becomes("hanging\n", server.stdout_so_far)
        assert server.stop(number, 3.0) == 0


@pytest.mark.parametrize("moment", [0.0, 0.02, 0.05, 0.1, 0.2])
def test_term_while_starting(moment: float, tmp_path: Path) -> None:
    """From its first line on it obeys TERM, and leaves nothing."""
    with starting(ECHO, "-b", f"unix://{tmp_path}/s", ALONE) as server:
        eventually(lambda: processes.catches(server.pid, signal.SIGTERM))
        pause(moment)
        assert server.stop() == 0
        assert not (tmp_path / "s").exists()
