"""A benchmark's servers are started, watched and stopped, and what they use is known."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from forkserve.bench.conversation import Exchange
from forkserve.bench.load import Load, Order
from forkserve.bench.server import Server, ServerFailed
from forkserve.bench.usage import born, cpu_seconds, machine_cpu_seconds, memory, run_delay, tree
from tests.support.processes import look_up, wait_until_gone
from tests.support.waiting import eventually

LISTEN = """
import os, signal, socket, sys, time
listener = socket.create_server(("127.0.0.1", 0), backlog=512)
def ready():
    print(f"listening on tcp://127.0.0.1:{listener.getsockname()[1]}", file=sys.stderr, flush=True)
def serve(act=lambda: None):
    while True:
        sock, _ = listener.accept()
        with sock:
            sock.recv(100)
            act()
            sock.sendall(b"pong")
def burn(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
"""
PING = Exchange(b"ping", b"pong")

Command = Callable[..., list[str]]


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """Return what makes a command of the body of a server."""

    def make(body: str, listen: str = LISTEN) -> list[str]:
        path = tmp_path / "serve.py"
        path.write_text(f"{listen}\n{body}\n")
        return [sys.executable, str(path)]

    return make


@pytest.fixture(autouse=True)
def adopted() -> Iterator[None]:
    """Collect the children of dead servers, which come to us; who still runs is found later."""
    yield
    with suppress(ChildProcessError):
        for child in tree(os.getpid())[1:]:
            wait_until_gone(child)
            os.waitpid(child, os.WNOHANG)


def forked(pid: int, count: int) -> list[int]:
    """Return the descendants of a process when there are so many."""
    eventually(lambda: len(tree(pid)) == count + 1)
    return tree(pid)[1:]


# -- starting and stopping


def test_server_is_found_ready_and_stopped(command: Command) -> None:
    """A server's address is taken from its ready line, and its end closes its account."""
    with Server(command("ready()\nserve()")) as server:
        assert server.address == f"tcp://127.0.0.1:{server.port}"
        result = Load(Order(server.address, 2, 20.0, connections=20), PING).run()
        assert result.outcomes["ok"] == 20
        assert not server.ends_within(0)
        assert server.stop() >= 0.01
    assert server.process.returncode == -signal.SIGTERM


def test_server_that_ends_at_once_is_told_of(command: Command) -> None:
    """A command that ends has failed, and what it said and its status are told."""
    with (
        pytest.raises(ServerFailed, match="no such handler") as failure,
        Server(command("import sys\nprint('no such handler', flush=True)\nsys.exit(3)")),
    ):
        pass
    assert failure.value.status == 3
    assert "ended" in str(failure.value)


def test_missing_command_is_told_of() -> None:
    """A command that is not there has failed too."""
    with pytest.raises(ServerFailed, match="cannot be started: No such file"), Server(["/none"]):
        pass


def test_server_that_never_gets_ready_is_killed(command: Command) -> None:
    """A server that says nothing of use in time is killed with its children."""
    body = "os.fork()\nprint('hello', flush=True)\nserve()"
    server = Server(command(body), boot_timeout=1.0)
    with pytest.raises(ServerFailed, match="did not get ready in 1 s; it said:\nhello"), server:
        pass
    assert server.process.returncode == -signal.SIGKILL
    assert look_up(server.pid) is None


def test_ready_line_is_read_whole(command: Command) -> None:
    """A ready line that comes in two pieces is not taken for one that names another port."""
    body = (
        "port = str(listener.getsockname()[1])\n"
        "os.write(2, b'listening on tcp://127.0.0.1:' + port[:2].encode())\n"
        "time.sleep(0.2)\n"
        "os.write(2, port[2:].encode() + b'\\n')\n"
        "serve()"
    )
    with Server(command(body)) as server:
        assert Load(Order(server.address, 1, 20.0, connections=1), PING).run().outcomes["ok"] == 1


def test_output_of_ten_megabytes_does_not_block(command: Command) -> None:
    """A server that writes much under load is read, and its last words are kept."""
    body = "ready()\nserve(lambda: sys.stderr.write(('x' * 99 + '\\n') * 5000) and None)"
    with Server(command(body)) as server:
        result = Load(Order(server.address, 1, 30.0, connections=21), PING).run()
        assert result.outcomes["ok"] == 21
        eventually(lambda: len(server.said()) >= 9_000_000)


def test_kill_leaves_nothing(command: Command) -> None:
    """An exception in the block ends the server and its children without asking."""
    body = "signal.signal(15, signal.SIG_IGN)\nos.fork()\nos.fork()\nready()\nserve()"
    server = Server(command(body)).__enter__()
    children = forked(server.pid, 3)
    server.__exit__(KeyError, KeyError(), None)
    assert look_up(server.pid) is None
    assert all(map(wait_until_gone, children))


def test_kill_is_quicker_than_a_supervisor(command: Command) -> None:
    """A server that replaces its dead children is ended before it can."""
    body = (
        "ready()\n"
        "while True:\n"
        "    if not os.fork():\n"
        "        signal.pause()\n"
        "        os._exit(0)\n"
        "    os.wait()"
    )
    server = Server(command(body)).__enter__()
    children = forked(server.pid, 1)
    server.__exit__(KeyError, KeyError(), None)
    assert look_up(server.pid) is None
    assert all(map(wait_until_gone, children))


def test_stop_ends_what_a_server_leaves_behind(command: Command) -> None:
    """Children that outlive their server are ended when it is stopped."""
    body = "if not os.fork():\n    signal.signal(15, signal.SIG_IGN)\nready()\nserve()"
    with Server(command(body)) as server:
        children = forked(server.pid, 1)
        server.stop()
    assert look_up(server.pid) is None
    assert all(map(wait_until_gone, children))


def test_server_of_unknown_account_is_stopped(command: Command) -> None:
    """Where the account cannot be closed this is said, and the server does not stay."""
    body = "signal.signal(signal.SIGCHLD, signal.SIG_IGN)\nready()\nserve()"
    with pytest.raises(RuntimeError, match="ignores SIGCHLD"), Server(command(body)) as server:
        pass
    assert look_up(server.pid) is None


def test_cpus_and_environment_are_the_servers_own(command: Command, tmp_path: Path) -> None:
    """A server has the CPUs, folder and variables that it was given, and we keep ours."""
    ours = os.sched_getaffinity(0)
    one = min(ours)
    told = "os.getcwd(), os.environ['COLOR'], os.sched_getaffinity(0)"
    body = f"print({told}, flush=True)\nready()\nserve()"
    server = Server(command(body), {one}, folder=tmp_path, environment={"COLOR": "blue"})
    with server:
        assert os.sched_getaffinity(0) == ours
        server.stop()
    assert f"{tmp_path} blue {{{one}}}" in server.said()


# -- what is used


def test_cpu_of_reaped_children_counts(command: Command) -> None:
    """What a child has burned counts when it has ended and was reaped."""
    body = (
        "ready()\n"
        "def act():\n"
        "    pid = os.fork()\n"
        "    if not pid:\n"
        "        burn(0.1)\n"
        "        os._exit(0)\n"
        "    os.waitpid(pid, 0)\n"
        "serve(act)"
    )
    with Server(command(body)) as server:
        before = cpu_seconds(server.pid)
        Load(Order(server.address, 1, 30.0, connections=3), PING).run()
        spent = cpu_seconds(server.pid) - before
        total = server.stop()
    assert 0.27 <= spent <= total
    assert total >= before


def test_cpu_of_living_children_and_threads_counts(command: Command) -> None:
    """What a child and a thread that has ended have burned counts while the server lives."""
    body = (
        "import threading\n"
        "thread = threading.Thread(target=burn, args=(0.1,))\n"
        "thread.start(); thread.join()\n"
        "if not os.fork():\n"
        "    burn(0.2)\n"
        "    ready()\n"
        "serve()"
    )
    with Server(command(body)) as server:
        spent = cpu_seconds(server.pid)
        server.stop()
    assert spent >= 0.3


def test_account_that_misses_a_child_is_refused(command: Command) -> None:
    """A server that ends without its busy children has no account that could be closed."""
    body = "if not os.fork():\n    burn(0.3)\n    ready()\nserve()"
    server = Server(command(body)).__enter__()
    with pytest.raises(RuntimeError, match="left the tree"):
        server.__exit__(None, None, None)


def test_account_is_kept_while_children_come_and_go(command: Command) -> None:
    """The account can be read at any moment of a server that forks for every connection."""
    body = (
        "ready()\n"
        "while True:\n"
        "    pid = os.fork()\n"
        "    if not pid:\n"
        "        os._exit(0)\n"
        "    os.waitpid(pid, 0)"
    )
    with Server(command(body)) as server:
        readings = [cpu_seconds(server.pid) for _ in range(300)]
    assert all(reading > 0 for reading in readings)


def test_waits_for_a_cpu_are_known_while_children_come_and_go() -> None:
    """Processes that end while their threads are looked up are left out, and no error."""
    begin_and_end = "while :; do /bin/true & /bin/true; done"
    with subprocess.Popen(["sh", "-c", begin_and_end]) as process:
        try:
            delays = [run_delay(process.pid) for _ in range(3000)]
        finally:
            process.kill()
    assert max(delays) > 0


def test_memory_is_that_of_the_whole_tree(command: Command) -> None:
    """What children hold counts, and what they share counts once."""
    whole = 40_000_000
    body = (
        f"shared = b'x' * {whole}\n"
        "if not os.fork():\n"
        f"    own = b'y' * {whole}\n"
        "    ready()\n"
        "serve()"
    )
    with Server(command(body)) as server:
        held = memory(server.pid)
    assert 2 * whole <= held < 3 * whole


def test_dead_server_has_no_memory() -> None:
    """A process that has ended and waits to be reaped holds nothing, and can still be read."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert memory(process.pid) == 0
        assert cpu_seconds(process.pid) >= 0
        moment = born(process.pid)
    assert moment
    assert born(process.pid) == ""


def test_machine_counts_what_we_burn() -> None:
    """What is burned on a CPU shows in the machine's account."""
    before = machine_cpu_seconds()
    subprocess.run([sys.executable, "-c", LISTEN + "burn(0.3)"], check=True)
    assert machine_cpu_seconds() - before >= 0.25
