"""Send signals in storms, in pairs and at single system calls, and serve as PID 1."""

import contextlib
import itertools
import os
import random
import re
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tests.endurance.deaths import (
    DYING,
    EXPECTED,
    PLAIN,
    lasting_zombies,
    leader_of,
    leaders_of,
    seconds_to_strength,
    workers_of,
)
from tests.endurance.hangs import HANGING
from tests.endurance.load import Load
from tests.endurance.scenario import Findings, Scenario
from tests.support import clients, processes
from tests.support.modes import MODE, Mode
from tests.support.output import Output
from tests.support.requirements import requires, requires_root
from tests.support.server import TCP, Server, adopted, running, starting
from tests.support.waiting import Stopwatch, eventually, pause

PREFORK = MODE["prefork"]


# -- many signals


@dataclass(frozen=True, slots=True)
class Storm:
    """How many signals, how many a second."""

    count: int
    rate: float


MIXED = ("HUP", "USR1", "USR2", "TTIN", "TTOU", "CHLD", "URG")


def storm(mode: Mode, sizes: Storm, found: Findings) -> None:
    """Send signals of every kind but those that end, then TERM, under load."""
    with running(DYING, *mode.arguments, expect=EXPECTED) as server:
        with Load(server.address, clients=4) as load:
            _rain(server, sizes, found)
            load.wait_for_more(20)
        found.promise_no_failure(load)
        seconds_to_strength(server, mode)
        eventually(lambda: len(leaders_of(server)) == 1, 30)
        expect_rest(server, found)
        expect_end(server, found)


def _rain(server: Server, sizes: Storm, found: Findings) -> None:
    watch = Stopwatch()
    for number in range(sizes.count):
        server.signal(getattr(signal, f"SIG{random.choice(MIXED)}"))
        pause(max(0.0, (number + 1) / sizes.rate - watch.seconds))
    found.count("signals", sizes.count)


def expect_rest(server: Server, found: Findings) -> None:
    """Hold the supervisor and its leader to be idle again."""
    pids = [server.pid, leader_of(server)]
    spent = sum(map(processes.cpu_seconds, pids))
    pause(1)
    spent = sum(map(processes.cpu_seconds, pids)) - spent
    found.promise(spent <= 0.05, f"{spent:.2f} s of a CPU in a second of rest")


def expect_end(server: Server, found: Findings) -> None:
    """Hold a server to end with 0 after a TERM, with nothing left and nothing to complain of."""
    watch = Stopwatch()
    with contextlib.suppress(ProcessLookupError):
        server.signal(signal.SIGTERM)
    expect_ended(server, watch, found)


def expect_ended(server: Server, watch: Stopwatch, found: Findings, after: str = "TERM") -> None:
    """Hold a server that was told to end to do so with 0, with nothing left."""
    try:
        status = server.wait(15)
    except AssertionError as error:
        found.promise(False, f"after {after}: {error}")
        server.destroy()
        return
    found.slowest("ended after", watch.seconds)
    found.promise(status == 0, f"status {status} after {after}:\n{server.stderr_so_far()}")
    found.promise("Traceback" not in server.stderr_so_far(), server.stderr_so_far())
    left = adopted()
    found.promise(left == [], f"left behind after {after}: {left}")
    for one in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(one.pid, signal.SIGKILL)
        os.waitpid(one.pid, 0)


# -- two signals

PAIRED = ("HUP", "TERM", "USR1", "TTIN")
PAIRS = list(itertools.product(PAIRED, repeat=2))


@dataclass(frozen=True, slots=True)
class Spacings:
    """How long after the first signal the second comes, each so many times."""

    seconds: tuple[float, ...]
    repeats: int


def pair(first: str, second: str, mode: Mode, sizes: Spacings, found: Findings) -> None:
    """Send two signals, and hold the server to end if one was TERM, else to go on."""
    for spacing in sizes.seconds * sizes.repeats:
        with running(DYING, *mode.arguments, expect=EXPECTED, status=None) as server:
            assert clients.ask_line(server.address, "echo here") == "here"
            server.signal(getattr(signal, f"SIG{first}"))
            watch = Stopwatch()
            pause(spacing)
            with contextlib.suppress(ProcessLookupError):
                server.signal(getattr(signal, f"SIG{second}"))
            found.count("pairs", 1)
            if "TERM" not in (first, second):
                assert clients.ask_line(server.address, "echo here", 20) == "here"
                watch = Stopwatch()
                server.signal(signal.SIGTERM)
            expect_ended(server, watch, found)


def everybody(mode: Mode, sizes: Spacings, found: Findings) -> None:
    """Send TERM to every process of the server at once, as a service manager may, under load."""
    for spacing in sizes.seconds * sizes.repeats:
        with (
            running(DYING, *mode.arguments, expect=EXPECTED, status=None) as server,
            Load(server.address, clients=4) as load,
        ):
            load.wait_for(20)
            watch = Stopwatch()
            for one in server.processes():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(one.pid, signal.SIGTERM)
                pause(spacing / 10)
            expect_ended(server, watch, found)
            found.count("stops", 1)


# -- a TERM at a single system call


@dataclass(frozen=True, slots=True)
class Points:
    """At how many system calls."""

    count: int


CALL = re.compile(r"^(?:\d+ +)?(?:[\d:.]+ )?(\w+)\(", re.MULTILINE)
# exit never returns, and rt_sigreturn belongs to the signal itself.
UNFIT = {"exit_group", "exit", "rt_sigreturn", "execve", "restart_syscall"}
HANDLES_TERM = re.compile(r"rt_sigaction\(SIGTERM, \{sa_handler=0x")


def choose(log: str, after: str | None, count: int) -> list[tuple[str, int]]:
    """Return so many of the calls in a trace, as strace counts them: name, n-th.

    Every kind of call in its turn, those that are rare first.
    """
    seen: Counter[str] = Counter()
    points: dict[str, list[int]] = {}
    is_open = after is None
    for line in log.splitlines():
        if called := CALL.match(line):
            seen[called[1]] += 1
            if is_open and called[1] not in UNFIT:
                points.setdefault(called[1], []).append(seen[called[1]])
            is_open = is_open or HANDLES_TERM.search(line) is not None
    rare_first = sorted(points, key=lambda name: len(points[name]))
    turns = itertools.zip_longest(*([(name, n) for n in points[name]] for name in rare_first))
    return [point for turn in turns for point in turn if point is not None][:count]


def binds_in(folder: Path) -> list[str]:
    """Return addresses that leave files behind if nobody removes them."""
    return ["-b", f"unix://{folder}/a", "-b", TCP, "-b", f"unix://{folder}/b"]


def boot(mode: Mode, sizes: Points, found: Findings) -> None:
    """Let TERM come with a system call that the supervisor makes from its first line to ready."""
    requires("strace")
    arguments = [HANGING, "-m", mode.mode, *mode.flags, *binds_in(found.folder)]
    log = found.folder / "boot"
    trace = ["strace", "-D", "-qq", "-o", str(log)]
    with starting(*arguments, under=trace) as server:
        server.wait_until_ready(3)
        calls = log.read_text(errors="replace")
        server.stop()
    for call, number in choose(calls, HANDLES_TERM.pattern, sizes.count):
        inject = ["-e", f"trace={call}", "-e", f"inject={call}:signal=SIGTERM:when={number}"]
        under = ["strace", "-D", "-qq", "-o", "/dev/null", *inject]
        with starting(*arguments, under=under, expect=EXPECTED) as server:
            eventually(lambda s=server: not s.is_running() or _is_ready(s), 20)  # type: ignore[misc]
            found.count("points", 1)
            expect_clean_end(server, f"TERM at {call} no. {number} of the boot", found)


def _is_ready(server: Server) -> bool:
    return server.stderr_so_far().count("forkserve: listening on") == 3


def expect_clean_end(server: Server, after: str, found: Findings) -> None:
    """Hold a server with TERM at some point of its life to end with 0 and leave no socket."""
    watch = Stopwatch()
    if server.is_running():
        with contextlib.suppress(ProcessLookupError):
            server.signal(signal.SIGTERM)
    expect_ended(server, watch, found, after)
    files = processes.socket_files(found.folder)
    found.promise(files == [], f"left after {after}: {files}")
    for file in files:
        file.unlink()


@contextlib.contextmanager
def tracing(pid: int, log: Path, *options: str) -> Iterator[None]:
    """Trace one process, and none that it forks, until the block ends."""
    requires("strace")
    command = ["strace", "-o", str(log), *options, "-p", str(pid)]
    tracer = subprocess.Popen(command, stderr=subprocess.PIPE)
    assert tracer.stderr is not None
    output = Output(tracer.stderr)
    try:
        output.wait_for(r"Process \d+ attached")
        yield
    finally:
        tracer.send_signal(signal.SIGINT)
        tracer.wait(10)
        output.close()


def signalling(call: str, number: int, name: str) -> list[str]:
    """Return the options of strace that send a signal with the n-th of these calls."""
    return ["-e", f"trace={call}", "-e", f"inject={call}:signal={name}:when={number}"]


def reload(mode: Mode, sizes: Points, found: Findings) -> None:
    """Let TERM come with a system call that the supervisor makes in a reload."""
    log = found.folder / "calls"
    with serving(mode, found) as server, tracing(server.pid, log):
        server.signal(signal.SIGHUP)
        server.wait_for_line("generation 1 has left", 20)
    for call, number in choose(log.read_text(errors="replace"), None, sizes.count):
        with serving(mode, found) as server:
            with tracing(server.pid, log, *signalling(call, number, "SIGTERM")):
                server.signal(signal.SIGHUP)
                eventually(partial(_is_reloaded, server), 20)
            found.count("points", 1)
            expect_clean_end(server, f"TERM at {call} no. {number} of a reload", found)


def _is_reloaded(server: Server) -> bool:
    return not server.is_running() or "generation 1 has left" in server.stderr_so_far()


def stop(mode: Mode, sizes: Points, found: Findings) -> None:
    """Let a second TERM come with a system call that the supervisor makes in a stop."""
    log = found.folder / "calls"
    with serving(mode, found) as server, tracing(server.pid, log):
        server.stop()
    for call, number in choose(log.read_text(errors="replace"), None, sizes.count):
        with serving(mode, found) as server:
            with tracing(server.pid, log, *signalling(call, number, "SIGTERM")):
                server.signal(signal.SIGTERM)
                eventually(lambda s=server: not s.is_running(), 20)  # type: ignore[misc]
            found.count("points", 1)
            expect_clean_end(server, f"TERM at {call} no. {number} of a stop", found)


def fork(mode: Mode, sizes: Points, found: Findings) -> None:
    """Let TERM come while the leader is at a system call of replacing a worker."""
    log = found.folder / "calls"
    with serving(mode, found) as server, tracing(leader_of(server), log):
        os.kill(workers_of(server)[0], signal.SIGKILL)
        seconds_to_strength(server, mode)
    for call, number in choose(log.read_text(errors="replace"), None, sizes.count):
        with serving(mode, found) as server:
            leader = leader_of(server)
            with tracing(leader, log, *signalling(call, number, "SIGSTOP")):
                os.kill(workers_of(server)[0], signal.SIGKILL)
                with contextlib.suppress(AssertionError):  # there was no such call this time
                    eventually(partial(_stands, leader), 2)
                server.signal(signal.SIGTERM)
                os.kill(leader, signal.SIGCONT)
                eventually(lambda s=server: not s.is_running(), 20)  # type: ignore[misc]
            found.count("points", 1)
            expect_clean_end(server, f"TERM at {call} no. {number} of a fork", found)


def _stands(pid: int) -> bool:
    """Tell whether a process has stood still for longer than a tracer looks at one call."""
    watch = Stopwatch()
    while watch.seconds < 0.03:
        process = processes.look_up(pid)
        if process is None or process.state not in "Tt":
            return False
        pause(0.003)
    return True


@contextlib.contextmanager
def serving(mode: Mode, found: Findings) -> Iterator[Server]:
    """Serve addresses that leave files behind if nobody removes them."""
    arguments = [HANGING, "-m", mode.mode, *mode.flags, *binds_in(found.folder)]
    with starting(*arguments, expect=EXPECTED) as server:
        server.wait_until_ready(3)
        server.addresses.sort()  # the one of TCP first
        yield server


# -- the first process of a container

CONTAINER = ["unshare", "-pf", "--mount-proc", "--kill-child"]


@dataclass(frozen=True, slots=True)
class Moments:
    """How long after the first line TERM comes, in seconds, each so many times."""

    seconds: tuple[float, ...]
    repeats: int


def stop_early(mode: Mode, sizes: Moments, found: Findings) -> None:
    """Start as PID 1, to which the kernel is deaf, and hold it to obey TERM at every moment."""
    requires("unshare")
    requires_root()
    for moment in sizes.seconds * sizes.repeats:
        arguments = [DYING, "-m", mode.mode, *mode.flags, "-b", TCP]
        with starting(*arguments, under=CONTAINER, nested=True, expect=EXPECTED) as server:
            eventually(partial(_first_catches, server))
            pause(moment)
            found.count("starts", 1)
            expect_end(server, found)


def _first_catches(server: Server) -> bool:
    try:
        return processes.catches(server.pid, signal.SIGTERM)
    except IndexError:
        return False


@dataclass(frozen=True, slots=True)
class Strangers:
    """How many processes that nobody knows."""

    count: int


PORTION = 50


def adopt(under: Sequence[str], mode: Mode, sizes: Strangers, found: Findings) -> None:
    """Let handlers orphan strangers, and hold the server to collect and ignore them."""
    if under:
        requires("unshare")
        requires_root()
    options = {
        "under": under,
        "nested": bool(under),
        "expect": EXPECTED,
        "env": {"PROGRAM_AT_IMPORT": "1"},
    }
    with running(DYING, *mode.arguments, **options) as server:  # type: ignore[arg-type]
        before = [server.pid, leader_of(server), *workers_of(server)]
        assert clients.ask_line(server.address, "at-import") == "7"
        lanes = min(mode.lanes, 4)
        for _ in range(0, sizes.count, lanes * PORTION):
            done = clients.at_once(lanes, partial(_orphan_some, server.address))
            found.promise(done == [str(PORTION)] * lanes, f"handlers: {done}")
            found.count("strangers", lanes * PORTION)
            codes = clients.at_once(lanes, partial(_run_program, server.address))
            found.promise(codes == [str(code) for code in range(lanes)], f"statuses: {codes}")
            found.count("programs", lanes)
        zombies = lasting_zombies(server)
        found.promise(zombies == 0, f"{zombies} zombies")
        after = [server.pid, leader_of(server), *workers_of(server)]
        found.promise(before == after, f"{before} became {after}")


def _orphan_some(address: str, _: int) -> str:
    return clients.ask_line(address, f"strangers {PORTION}", 60)


def _run_program(address: str, code: int) -> str:
    return clients.ask_line(address, f"program {code}", 60)


# -- the scenarios

STORMS: list[Scenario[Any]] = [
    Scenario(
        f"storm-{mode.name}",
        partial(storm, mode),
        small=Storm(1000, 1000),
        full=Storm(2000, 1000),
    )
    for mode in PLAIN
]
TWO_SIGNALS: list[Scenario[Any]] = [
    *(
        Scenario(
            f"{first}-then-{second}-{PREFORK.name}".lower(),
            partial(pair, first, second, PREFORK),
            small=Spacings((0.0, 0.005, 0.05), 1),
            full=Spacings((0.0, 0.005, 0.05), 5),
        )
        for first, second in PAIRS
    ),
    *(
        Scenario(
            f"{first}-then-{second}-{mode.name}".lower(),
            partial(pair, first, second, mode),
            small=Spacings((0.005,), 1),
            full=Spacings((0.0, 0.005, 0.05), 2),
        )
        for first, second in (("HUP", "HUP"), ("HUP", "TERM"), ("TERM", "HUP"), ("TERM", "TERM"))
        for mode in PLAIN
        if mode is not PREFORK
    ),
    *(
        Scenario(
            f"term-to-everybody-{mode.name}",
            partial(everybody, mode),
            small=Spacings((0.0, 0.05), 1),
            full=Spacings((0.0, 0.005, 0.05), 5),
        )
        for mode in PLAIN
    ),
]
POINTS: list[Scenario[Any]] = [
    Scenario(f"term-in-{name}", partial(act, PREFORK), small=Points(small), full=Points(full))
    for name, act, small, full in (
        ("boot", boot, 8, 130),
        ("reload", reload, 6, 60),
        ("stop", stop, 3, 30),
        ("fork", fork, 3, 30),
    )
]
FIRST_PROCESS: list[Scenario[Any]] = [
    *(
        Scenario(
            f"first-process-stopped-{mode.name}",
            partial(stop_early, mode),
            small=Moments((0.0, 0.01, 0.05, 0.2), 1),
            full=Moments((0.0, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5), 3),
        )
        for mode in PLAIN
    ),
    *(
        Scenario(
            f"strangers-{mode.name}",
            partial(adopt, CONTAINER, mode),
            small=Strangers(200),
            full=Strangers(2000),
        )
        for mode in PLAIN
    ),
    Scenario(
        "strangers-outside-a-container",
        partial(adopt, (), PREFORK),
        small=Strangers(200),
        full=Strangers(2000),
    ),
]

SCENARIOS: tuple[Scenario[Any], ...] = (*STORMS, *TWO_SIGNALS, *POINTS, *FIRST_PROCESS)
