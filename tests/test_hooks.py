"""Functions of the user's that run when a leader or a worker starts, and when a worker stops."""

import json
import os
import re
import shutil
import signal
import sys
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from forkserve.settings import count_cpus
from tests.support import clients, processes
from tests.support.modes import MODE, MOSTLY_PLAIN, Mode
from tests.support.server import ROOT, TCP, Server, handler, run_command, running
from tests.support.waiting import Stopwatch

HOOKED = handler("hooked.py:Hooked")
TELL = handler("hooked.py:Tell")
HOOKS = ("leader_start", "worker_start", "worker_stop")


class Call(NamedTuple):
    """A hook that ran, in which process, and that one's parent."""

    hook: str
    pid: int
    parent: int


class Journal:
    """Where hooks write down that they ran."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.env = {"JOURNAL": str(path)}
        path.touch()

    def calls(self, hook: str = "") -> list[Call]:
        """Return the calls so far whose hook ends with this name, in their order."""
        lines = self._path.read_text().splitlines()
        return [call for line in lines if (call := Call(*json.loads(line))).hook.endswith(hook)]

    def pids(self, hook: str) -> list[int]:
        """Return the processes in which a hook ran, in the order of their numbers."""
        return sorted(call.pid for call in self.calls(hook))


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    """Return an empty journal."""
    return Journal(tmp_path / "journal")


def leader_of(server: Server) -> int:
    """Return the one child of the supervisor."""
    (leader,) = [one.pid for one in server.processes() if one.parent == server.pid]
    return leader


def workers_of(server: Server) -> list[int]:
    """Return the children of the leader."""
    leader = leader_of(server)
    return sorted(one.pid for one in server.processes() if one.parent == leader)


def flags_for(module: str) -> list[str]:
    """Return the flags that name the three hooks of a module."""
    return [part for name in HOOKS for part in (f"--{name.replace('_', '-')}", f"{module}:{name}")]


def ask(server: Server) -> Any:
    """Return what a handler sees of the hooks."""
    return clients.ask_json(server.address, "tell")


# -- where, and how often


@pytest.mark.parametrize("mode", MOSTLY_PLAIN)
def test_each_hook_runs_where_it_should(mode: Mode, journal: Journal) -> None:
    """Once in the leader before the fork, once in each worker, never in a connection's process."""
    with running(HOOKED, *mode.arguments, env=journal.env) as server:
        leader, workers = leader_of(server), workers_of(server)
        seen = [ask(server) for _ in range(3)]
        assert journal.calls("leader_start") == [Call("Hooked.leader_start", leader, server.pid)]
        assert journal.pids("worker_start") == workers
        assert {call.parent for call in journal.calls("worker_start")} == {leader}
        assert journal.calls("worker_stop") == []
    assert journal.pids("worker_stop") == workers
    assert {one["imported"] for one in seen} == {leader}
    worker = "pid" if mode.lasting else "parent"
    assert [one["opened"] for one in seen] == [
        [["Hooked.leader_start", leader], ["Hooked.worker_start", one[worker]]] for one in seen
    ]


@pytest.mark.parametrize("mode", MOSTLY_PLAIN)
def test_hooks_by_flag(mode: Mode, journal: Journal) -> None:
    """A hook in the file of the target is in the target's module, which is loaded once."""
    flags = flags_for(handler("hooked.py"))
    with running(TELL, *mode.arguments, *flags, env=journal.env) as server:
        leader, seen = leader_of(server), ask(server)
        worker = seen["pid" if mode.lasting else "parent"]
    assert seen["opened"] == [["leader_start", leader], ["worker_start", worker]]
    assert worker in journal.pids("worker_stop")


def in_a_package(folder: Path) -> tuple[str, str]:
    """Name both by their module."""
    return "tests.handlers.hooked:Tell", "tests.handlers.hooked"


def in_a_file(folder: Path) -> tuple[str, str]:
    """Name both by their file, seen from another folder."""
    shutil.copy(ROOT / "tests/handlers/hooked.py", folder / "told.py")
    return f"{folder}/told.py:Tell", os.path.relpath(folder / "told.py", ROOT)


def in_a_file_of_a_common_name(folder: Path) -> tuple[str, str]:
    """Name both by a file that is called like a module of the standard library."""
    shutil.copy(ROOT / "tests/handlers/hooked.py", folder / "code.py")
    return f"{folder}/code.py:Tell", f"{folder}/code.py"


def in_a_module_and_its_file(folder: Path) -> tuple[str, str]:
    """Name the target by its module, and the hooks by its file."""
    return "tests.handlers.hooked:Tell", "tests/handlers/hooked.py"


@pytest.mark.parametrize(
    "place",
    [
        in_a_package,
        in_a_file,
        in_a_file_of_a_common_name,
        in_a_module_and_its_file,
    ],
)
def test_a_module_is_loaded_once(place: Any, journal: Journal, tmp_path: Path) -> None:
    """Whichever way both are named: what a hook opens is what the handler uses."""
    target, module = place(tmp_path)
    with running(target, "prefork", "-w", "1", *flags_for(module), env=journal.env) as server:
        seen = ask(server)
    assert [hook for hook, _ in seen["opened"]] == ["leader_start", "worker_start"]


def test_hooks_of_another_module(journal: Journal) -> None:
    """Hooks need not be where the target is."""
    target, flags = handler("echo.py:Stream"), flags_for("tests.handlers.hooked")
    with running(target, "prefork", "-w", "2", *flags, env=journal.env) as server:
        workers = workers_of(server)
        assert clients.ask(server.address, b"hello") == b"hello"
    assert [call.hook for call in journal.calls("leader_start")] == ["leader_start"]
    assert journal.pids("worker_start") == journal.pids("worker_stop") == workers


def test_hooks_by_environment(journal: Journal) -> None:
    """FORKSERVE_LEADER_START and so on are as good as flags."""
    variables = {f"FORKSERVE_{name.upper()}": f"{handler('hooked.py')}:{name}" for name in HOOKS}
    with running(TELL, "prefork", "-w", "1", env=journal.env | variables) as server:
        seen = ask(server)
    assert [hook for hook, _ in seen["opened"]] == ["leader_start", "worker_start"]
    assert journal.pids("worker_stop") == [seen["pid"]]


def test_the_classs_hooks_come_before_the_flags(journal: Journal) -> None:
    """With both, both run."""
    flags = flags_for(handler("hooked.py"))
    with running(HOOKED, "prefork", "-w", "1", *flags, env=journal.env):
        pass
    assert [call.hook for call in journal.calls()] == [
        name for hook in HOOKS for name in (f"Hooked.{hook}", hook)
    ]


LIBRARY = """
import sys
from forkserve import Hooks, Server
from tests.handlers import hooked
hooks = Hooks((hooked.leader_start,), (hooked.worker_start,), (hooked.worker_stop,))
Server(hooked.Tell, sys.argv[-1], mode="prefork", workers=2, hooks=hooks).run()
"""


def test_hooks_of_the_library(journal: Journal, tmp_path: Path) -> None:
    """In a program that calls run() it is the leader itself."""
    program = tmp_path / "program.py"
    program.write_text(LIBRARY)
    with running(TELL, under=[sys.executable, str(program)], env=journal.env) as server:
        workers = sorted(one.pid for one in server.family())
        seen = ask(server)
    assert journal.pids("leader_start") == [server.pid]
    assert journal.pids("worker_start") == journal.pids("worker_stop") == workers
    assert seen["opened"] == [["leader_start", server.pid], ["worker_start", seen["pid"]]]


# -- when workers come and go


@pytest.mark.parametrize("mode", MOSTLY_PLAIN)
def test_hooks_at_a_reload(mode: Mode, journal: Journal) -> None:
    """A reload is a start of all that is new, then a stop of all that is old."""
    with running(HOOKED, *mode.arguments, env=journal.env) as server:
        old, old_leader = workers_of(server), leader_of(server)
        server.signal(signal.SIGHUP)
        server.wait_for_line("generation 1 has left")
        new, new_leader = workers_of(server), leader_of(server)
        assert journal.pids("worker_stop") == old
        assert ask(server)["imported"] == new_leader
    assert journal.pids("leader_start") == sorted([old_leader, new_leader])
    assert journal.pids("worker_start") == sorted(old + new)
    assert journal.pids("worker_stop") == sorted(old + new)
    hooks = [call.hook for call in journal.calls()]
    assert hooks.index("Hooked.worker_stop") > len(old + new)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_hooks_at_a_stop(number: signal.Signals, journal: Journal) -> None:
    """A worker that leaves as it was asked says so, in an orderly stop and in a hurry."""
    with running(HOOKED, "prefork", "-w", "2", env=journal.env) as server:
        workers = workers_of(server)
        assert server.stop(number) == 0
    assert journal.pids("worker_stop") == workers


def test_no_hook_after_a_kill(journal: Journal) -> None:
    """A worker that was killed has said nothing; the one in its place starts like any other."""
    expect = "killed by SIGKILL"
    with running(HOOKED, "prefork", "-w", "1", env=journal.env, expect=expect) as server:
        (killed,) = workers_of(server)
        os.kill(killed, signal.SIGKILL)
        server.wait_for_line(r"worker \d+ is ready")
        (other,) = workers_of(server)
    assert journal.pids("leader_start") == [server_leader(journal)]
    assert journal.pids("worker_start") == sorted([killed, other])
    assert journal.pids("worker_stop") == [other]


def server_leader(journal: Journal) -> int:
    """Return the parent of the workers in the journal."""
    (leader,) = {call.parent for call in journal.calls("worker_start")}
    return leader


def test_no_hook_after_a_hurry_that_ends_in_a_kill(journal: Journal) -> None:
    """A worker whose handler lets nothing interrupt it has no stop of its own."""
    with (
        running(HOOKED, "prefork", "-w", "1", env=journal.env, expect="killed") as server,
        clients.connect(server.address) as client,
    ):
        assert clients.command(client, "wait") == "started"
        assert server.stop(signal.SIGQUIT) == 0
    assert journal.calls("worker_stop") == []


# -- hooks that fail


def run_until_it_fails(*flags: str) -> tuple[int, str]:
    """Run the command, and return its status and what it said."""
    done = run_command(
        *("run", TELL, "-w", "2", "-b", TCP, "--boot-timeout", "2", *flags),
        env={"JOURNAL": "/dev/null"},
    )
    assert "listening on" not in done.stderr
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("hook", "function", "reason"),
    [
        ("leader", "raises", "leader_start raises raised ValueError: no database"),
        ("leader", "exits", "leader_start exits raised SystemExit: 0"),
        ("leader", "leaves", r"leader \d+ exited with 9 before it was ready"),
        pytest.param(
            *("leader", "hangs", r"leader \d+ was not ready after 2 s \(boot timeout\)"),
            marks=pytest.mark.heavy,
        ),
        ("worker", "raises", "worker_start raises raised ValueError: no database"),
        ("worker", "exits", "worker_start exits raised SystemExit: 0"),
        ("worker", "leaves", r"worker \d+ exited with 9 before it was ready"),
        pytest.param(
            *("worker", "hangs", r"worker \d+ was not ready after 2 s \(boot timeout\)"),
            marks=pytest.mark.heavy,
        ),
    ],
)
def test_a_hook_that_fails_at_the_first_start(hook: str, function: str, reason: str) -> None:
    """The server does not start: status 3, why in its last line, before that where (F34, F35)."""
    watch = Stopwatch()
    status, said = run_until_it_fails(f"--{hook}-start", f"{handler('hooked.py')}:{function}")
    assert (status, len(re.findall("^forkserve: error: ", said, re.MULTILINE))) == (3, 1)
    assert re.search(f"^forkserve: error: .*{reason}", said, re.MULTILINE), said
    assert watch.seconds < 10
    place = rf'File ".*hooked\.py", line \d+,? in {function}$'
    assert function == "leaves" or re.search(place, said, re.MULTILINE), said


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("hooked.py:nobody", "has no 'nobody'"),
        ("hooked.py:no_function", "is no function"),
        ("nothing.py:function", "there is no file"),
        ("hooked.py", "expected package.module:name"),
    ],
)
@pytest.mark.parametrize("hook", HOOKS)
def test_a_hook_that_is_not_there(hook: str, name: str, reason: str) -> None:
    """A name that leads nowhere is refused like such a target: status 4, and which and why."""
    status, said = run_until_it_fails(f"--{hook.replace('_', '-')}", handler(name))
    assert status == 4
    assert reason in said
    assert re.search(hook.replace("_", "[-_]"), said)
    assert said.count("\n") == 1


def test_a_hook_that_fails_at_a_reload(tmp_path: Path) -> None:
    """The generation that serves goes on, as with any other code that is broken."""
    code = tmp_path / "app.py"
    good = "from tests.handlers.echo import Stream\ndef open_pool(): pass\n"
    code.write_text(good)
    flags = ("-w", "1", "--worker-start", "app.py:open_pool")
    expect = "no database|reload failed"
    with running("app.py:Stream", "prefork", *flags, cwd=tmp_path, expect=expect) as server:
        before = workers_of(server)
        code.write_text(good.replace("pass", "raise ValueError('no database')"))
        server.signal(signal.SIGHUP)
        server.wait_for_line("reload failed: .*; generation 1 goes on serving")
        assert workers_of(server) == before
        assert clients.ask(server.address, b"hello") == b"hello"
        code.write_text(good)
        server.signal(signal.SIGHUP)
        server.wait_for_line("generation 1 has left")
        assert clients.ask(server.address, b"hello") == b"hello"


def test_a_worker_stop_that_raises(journal: Journal) -> None:
    """It is logged with its traceback, and the stop is as orderly as any."""
    target = handler("hooked.py:RaisesAtStop")
    expect = "no database|worker_stop"
    with running(target, "prefork", "-w", "1", env=journal.env, expect=expect) as server:
        assert server.stop() == 0
    assert "worker_stop RaisesAtStop.worker_stop raised ValueError" in server.stderr_so_far()
    assert "hooked.py" in server.stderr_so_far()


def test_many_workers_that_take_their_time(journal: Journal) -> None:
    """No more than two a CPU boot at once, those that serve need the CPUs as well (F38)."""
    at_once = 2 * count_cpus()
    flags = ("-w", str(at_once + 3), "--worker-start", f"{handler('hooked.py')}:takes_its_time")
    with running(TELL, "prefork", *flags, env=journal.env):
        pass
    numbers = {"begins": 1, "ends": -1}
    booting = list(accumulate(numbers[call.hook] for call in journal.calls("s")))
    assert (max(booting), booting[-1]) == (at_once, 0)


@pytest.mark.heavy
def test_a_worker_stop_that_hangs(journal: Journal) -> None:
    """The drain timeout holds for it too; then the worker is killed."""
    flags = ("-w", "1", "--drain-timeout", "1", "--worker-stop", f"{handler('hooked.py')}:hangs")
    with running(TELL, "prefork", *flags, env=journal.env, expect="kill") as server:
        (worker,) = workers_of(server)
        watch = Stopwatch()
        assert server.stop() == 0
        assert watch.seconds < 5
        assert processes.look_up(worker) is None


def test_a_check_runs_no_hook(journal: Journal) -> None:
    """`forkserve check` looks whether they are there, and calls none."""
    done = run_command("check", HOOKED, *flags_for(handler("hooked.py")), env=journal.env)
    assert done.returncode == 0, done.stderr
    assert journal.calls() == []


def test_modes_have_the_workers_they_say(journal: Journal) -> None:
    """In process mode as many as -w says, not as many as there are connections."""
    mode = MODE["process"]
    with running(HOOKED, *mode.arguments, "-w", "2", env=journal.env) as server:
        with clients.several(server.address, 4) as held:
            for client in held:
                client.sendall(b"tell\n")
            told = [json.loads(clients.read_line(client)) for client in held]
        assert journal.pids("worker_start") == workers_of(server)
    assert len({one["pid"] for one in told}) == 4
    assert len(journal.calls("worker_start")) == 2


ADOPTED = """
import os
import socketserver


class Tell(socketserver.BaseRequestHandler):
    opened = 0

    @classmethod
    def worker_start(cls):
        cls.opened = os.getpid()

    def handle(self):
        self.request.sendall(b"%d" % self.opened)


server = socketserver.TCPServer(("127.0.0.1", 0), Tell)
"""


def test_hooks_of_the_handler_that_a_server_object_has(tmp_path: Path) -> None:
    """A handler class keeps its hooks when it comes with a server object."""
    (tmp_path / "object.py").write_text(ADOPTED)
    with running(f"{tmp_path}/object.py:server", "prefork", "-w", "1") as server:
        with clients.connect(server.address) as client:
            opened = clients.read_to_end(client)
        assert [int(opened)] == workers_of(server)
