"""Kill workers, leaders and supervisors, let forks fail, and measure what each of it costs."""

import contextlib
import itertools
import os
import random
import re
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from tests.endurance.load import CLIENTS, Load
from tests.endurance.scenario import Findings, Scenario
from tests.support import clients, processes
from tests.support.faults import injecting
from tests.support.modes import MODE, Mode
from tests.support.processes import Process
from tests.support.requirements import requires, requires_root
from tests.support.server import Server, handler, running
from tests.support.waiting import Stopwatch, eventually, pause, settled

DYING = handler("dying.py:Stream")
EXPECTED = "worker|leader|process|child|fork|thread|reload failed|raised"

STRONG = Mode("prefork-4", "prefork", ("-w", "4"), lanes=4)
PLAIN = [MODE[name] for name in ("iterative", "thread", "process", "prefork", "prefork-threads")]
WITH_LEADERS_FORKS = [STRONG, *PLAIN]


# -- looking at the tree


def living_children(pid: int) -> list[Process]:
    """Return the children of a process that have not ended, in the order of their birth."""
    with contextlib.suppress(OSError):
        numbers = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        found = [processes.look_up(int(number)) for number in numbers]
        return [one for one in found if one is not None and one.state not in "ZX"]
    return []


def leaders_of(server: Server) -> list[int]:
    """Return the leaders that live, those of older generations first."""
    children = living_children(server.pid)
    return [one.pid for one in children if one.name.startswith("fs-leader")]


def leader_of(server: Server) -> int:
    """Return the leader of the newest generation, once there is one."""
    eventually(lambda: leaders_of(server), 10)
    return leaders_of(server)[-1]


def workers_of(server: Server) -> list[int]:
    """Return the workers that live and have a leader."""
    return [one.pid for leader in leaders_of(server) for one in living_children(leader)]


def worker_count(mode: Mode) -> int:
    """Return how many workers this mode has by its flags."""
    return int(mode.flags[mode.flags.index("-w") + 1]) if "-w" in mode.flags else 1


def memory_of(pid: int) -> int:
    """Return the KiB of memory of its own that a process has, shared with children or not."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Anonymous:"))


def lasting_zombies(server: Server) -> int:
    """Return how many zombies outlive a second."""
    seen, watch = _zombies_of(server), Stopwatch()
    while seen and watch.seconds < 1.0:
        pause(0.02)
        seen &= _zombies_of(server)
    return len(seen)


def _zombies_of(server: Server) -> set[int]:
    return {one.pid for one in server.processes() if one.state == "Z"}


def seconds_to_strength(server: Server, mode: Mode, timeout: float = 15.0) -> float:
    """Wait until the server has its full strength, and return how long that took."""
    watch = Stopwatch()
    eventually(lambda: is_strong(server, mode), timeout)
    return watch.seconds


def is_strong(server: Server, mode: Mode) -> bool:
    """Tell whether as many workers as were asked for are there, and each of them serves."""
    wanted = worker_count(mode)
    if len(workers_of(server)) != wanted:
        return False
    with ExitStack() as held, contextlib.suppress(OSError):
        lanes = [held.enter_context(clients.connect(server.address, 1.0)) for _ in range(wanted)]
        serving = {clients.command(client, mode.worker) for client in lanes}
        several_in_one = "--threads" in mode.flags
        return "" not in serving and (several_in_one or len(serving) == wanted)
    return False


TWO = ("supervisor", "leader")


class Holdings(NamedTuple):
    """What a supervisor and its leader hold."""

    pids: list[int]
    descriptors: list[list[str]]
    memory: list[int]

    @classmethod
    def of(cls, server: Server) -> "Holdings":
        """Measure them."""
        pids = [server.pid, leader_of(server)]
        held = [settled(partial(_kinds_held, pid)) for pid in pids]
        return cls(pids, held, [memory_of(pid) for pid in pids])

    def compare(self, later: "Holdings", found: Findings) -> None:
        """Hold a later measurement to be of the same processes, and of no more."""
        found.promise(self.pids == later.pids, f"{self.pids} became {later.pids}")
        for who, before, after in zip(TWO, self.descriptors, later.descriptors, strict=True):
            found.promise(before == after, f"the {who}'s descriptors: {before} became {after}")
        for who, less, more in zip(TWO, self.memory, later.memory, strict=True):
            found.slowest(f"{who}'s growth in KiB", float(more - less))
            found.promise(more - less <= 1024, f"the {who} grew by {more - less} KiB")


def _kinds_held(pid: int) -> list[str]:
    """Return what a process's descriptors are, without the numbers that are new in each pipe."""
    links = processes.descriptors(pid).values()
    return sorted(re.sub(r":\[\d+\]", "", link) for link in links)


# -- workers killed under load

FROM_OUTSIDE = ("KILL", "SEGV", "ABRT", "BUS")
FROM_INSIDE = ("leave 0", "leave 3", "die SEGV", "die KILL", "die BUS", "die ABRT")
WARM_UP = 20


@dataclass(frozen=True, slots=True)
class Kills:
    """How many deaths, how many a second, and how much later than promised is in time."""

    count: int
    rate: float
    slack: float = 0.0


def kill_workers(mode: Mode, sizes: Kills, found: Findings) -> None:
    """Let workers die from outside and inside in turn, under load."""
    # The server of a thread takes all of its connections along; where one is served at a time, one.
    at_stake = CLIENTS if mode.lanes > worker_count(mode) and mode.lasting else 1
    with running(DYING, *mode.arguments, expect=EXPECTED) as server:
        _kill_each(server, mode, WARM_UP, sizes.rate)  # what is made once is made now
        seconds_to_strength(server, mode)
        before = Holdings.of(server)
        with Load(server.address) as load:
            watch = Stopwatch()
            _kill_each(server, mode, sizes.count, sizes.rate)
            found.count("kills a second", sizes.count / watch.seconds)
        expect_strength(server, mode, sizes.slack, found)
        zombies = lasting_zombies(server)
        found.promise(zombies == 0, f"{zombies} zombies")
        eventually(lambda: len(server.processes()) == 2 + worker_count(mode), 30)
        _kill_one(server, "KILL")  # then the leader sees that those before have left nobody
        seconds_to_strength(server, mode)
        before.compare(Holdings.of(server), found)
    found.count("kills", sizes.count)
    found.count_load(load)
    failed = load.failed()
    found.promise(failed <= sizes.count * at_stake, f"{failed} failed: {load.describe_failures()}")


def _kill_each(server: Server, mode: Mode, count: int, rate: float) -> None:
    watch = Stopwatch()
    ways = itertools.cycle([*FROM_OUTSIDE, *FROM_INSIDE])
    for number in range(count):
        way = next(ways)
        if way in FROM_OUTSIDE:
            _kill_one(server, way)
        else:
            _ask_one(server.address, way)
        pause(max(0.0, (number + 1) / rate - watch.seconds))


def _kill_one(server: Server, name: str) -> None:
    """Kill a worker, whichever, as soon as there is one."""
    eventually(lambda: _is_killed(server, getattr(signal, f"SIG{name}")), 30)


def _is_killed(server: Server, number: int) -> bool:
    with contextlib.suppress(IndexError, ProcessLookupError):
        os.kill(random.choice(workers_of(server)), number)
        return True
    return False


def _ask_one(address: str, line: str) -> None:
    """Let a handler end the process that serves it."""
    with contextlib.suppress(OSError), clients.connect(address, 30) as client:
        client.sendall(f"{line}\n".encode())
        clients.ends(client)


# -- forks that fail


@dataclass(frozen=True, slots=True)
class Failures:
    """How many forks fail, and how much later than promised is in time."""

    count: int
    slack: float = 0.0


def starve(
    act: Callable[[Server, Mode, Failures, Findings], None],
    mode: Mode,
    sizes: Failures,
    found: Findings,
) -> None:
    """Serve, let forks fail in one way, and hold the server to outlive it."""
    with running(DYING, *mode.arguments, expect=EXPECTED) as server:
        supervisor = server.pid
        act(server, mode, sizes, found)
        found.promise(server.is_running() and server.pid == supervisor, "the server has ended")


def expect_strength(server: Server, mode: Mode, slack: float, found: Findings) -> None:
    """Hold the server to have its full strength a second from now."""
    seconds = seconds_to_strength(server, mode)
    found.slowest("full strength after", seconds)
    found.promise(seconds <= 1 + slack, f"weak for {seconds:.2f} s")


def expect_words(server: Server, pattern: str, count: int, found: Findings) -> None:
    """Hold the log to have the words so many times, or soon."""
    try:
        eventually(lambda: len(re.findall(pattern, server.stderr_so_far())) >= count, 10)
    except AssertionError:
        found.promise(False, f"not {count} x {pattern!r} in:\n{server.stderr_so_far()}")


def without_workers(
    error: str, server: Server, mode: Mode, sizes: Failures, found: Findings
) -> None:
    """Kill the workers while no other can be forked."""
    leader = leader_of(server)
    with failing_forks(leader, error, found) as failures, restful([server.pid, leader], found):
        for pid in workers_of(server):
            os.kill(pid, signal.SIGKILL)
        eventually(lambda: failures() >= sizes.count, 30 + sizes.count)
    expect_strength(server, mode, sizes.slack, found)
    count = worker_count(mode)
    expect_words(server, rf"degraded \d/{count}: ", 1, found)
    expect_words(server, f"full strength again: {count}/{count}", 1, found)


def without_leader(
    error: str, server: Server, mode: Mode, sizes: Failures, found: Findings
) -> None:
    """Kill the leader while no other can be forked."""
    with failing_forks(server.pid, error, found) as failures, restful([server.pid], found):
        os.kill(leader_of(server), signal.SIGKILL)
        eventually(lambda: failures() >= sizes.count, 30 + sizes.count)
    expect_strength(server, mode, sizes.slack, found)


def without_new_leader(
    error: str, server: Server, mode: Mode, sizes: Failures, found: Findings
) -> None:
    """Ask for new code, again and again, while no leader can be forked for it."""
    workers = workers_of(server)
    with failing_forks(server.pid, error, found) as failures, restful([server.pid], found):
        for number in range(1, sizes.count + 1):
            server.signal(signal.SIGHUP)
            eventually(partial(_has_failed, server, number), 30)
            pause(0.3)
        found.promise(failures() >= sizes.count, f"{failures()} forks were tried")
    expect_strength(server, mode, sizes.slack, found)
    found.promise(workers_of(server) == workers, "the old workers are not the same")


def _has_failed(server: Server, number: int) -> bool:
    return server.stderr_so_far().count("reload failed") >= number


def without_servers(
    error: str, server: Server, mode: Mode, sizes: Failures, found: Findings
) -> None:
    """Keep clients coming while a worker gets no process or thread for them."""
    (worker,) = workers_of(server)
    assert clients.ask_line(server.address, "echo here") == "here"  # its first threads are there
    with (
        ExitStack() as held,
        failing_forks(worker, error, found) as failures,
        restful([server.pid, leader_of(server)], found),
    ):
        watch = Stopwatch()
        while failures() < sizes.count and watch.seconds < 30 + sizes.count:
            _knock(server.address, held)
        found.promise(failures() >= sizes.count, f"only {failures()} forks were tried")
    expect_strength(server, mode, sizes.slack, found)
    found.promise(workers_of(server) == [worker], "the worker is another one")


def without_threads(
    error: str, server: Server, mode: Mode, sizes: Failures, found: Findings
) -> None:
    """Kill the workers while others can be forked, but none of those can start a thread."""
    leader = leader_of(server)
    with (
        ExitStack() as held,
        failing_forks(leader, error, found, calls=("clone3",)) as failures,
        restful([server.pid, leader], found),
    ):
        for pid in workers_of(server):
            os.kill(pid, signal.SIGKILL)
        watch = Stopwatch()
        while failures() < sizes.count and watch.seconds < 30:
            _knock(server.address, held)
        count = failures()
        pause(1)
        found.promise(count >= sizes.count, f"only {count} threads were tried")
        found.promise(failures() - count <= 30, f"{failures() - count} threads in a second")
    expect_strength(server, mode, sizes.slack, found)


def _knock(address: str, held: ExitStack) -> None:
    """Be a client that is served, kept waiting, or sent away; who is served keeps its thread."""
    with contextlib.suppress(OSError), ExitStack() as one:
        client = one.enter_context(clients.connect(address, 0.2))
        if clients.command(client, "pid"):
            held.push(one.pop_all())


def without_room(server: Server, mode: Mode, sizes: Failures, found: Findings) -> None:
    """Kill the workers where the kernel's limit leaves no room for others."""
    requires_root()
    with own_group([one.pid for one in server.processes()]) as group:
        limit = Path(group, "pids.max")
        limit.write_text("1")
        with restful([server.pid, leader_of(server)], found):
            for pid in workers_of(server):
                os.kill(pid, signal.SIGKILL)
            eventually(lambda: _refused(group) >= sizes.count, 30 + sizes.count)
        found.count("failed forks", _refused(group))
        limit.write_text("max")
        expect_strength(server, mode, sizes.slack, found)


FORKS = ("clone", "clone3", "fork", "vfork")


@contextlib.contextmanager
def failing_forks(
    pid: int, error: str, found: Findings, calls: Sequence[str] = FORKS
) -> Iterator[Callable[[], int]]:
    """Let every fork and new thread of a process and its children fail; yield what counts them."""
    requires("strace")
    log = found.folder / "calls"
    log.write_text("")

    def count() -> int:
        return log.read_text(errors="replace").count("(INJECTED)")

    with injecting([pid], *(f"{call}:error={error}" for call in calls), log=log):
        yield count
    found.count("failed forks", count())


@contextlib.contextmanager
def restful(pids: Sequence[int], found: Findings) -> Iterator[None]:
    """Hold these processes to need no more than a twentieth of a processor for the block."""
    spent, watch = sum(map(processes.cpu_seconds, pids)), Stopwatch()
    yield
    share = (sum(map(processes.cpu_seconds, pids)) - spent) / watch.seconds
    found.slowest("share of a CPU", share)
    found.promise(share <= 0.05, f"{share:.0%} of a CPU")


@contextlib.contextmanager
def own_group(pids: Sequence[int]) -> Iterator[Path]:
    """Put processes into a control group of their own, where their number can be limited."""
    group = Path(f"/sys/fs/cgroup/pids/forkserve-{os.getpid()}")
    group.mkdir()
    try:
        for pid in pids:
            Path(group, "cgroup.procs").write_text(str(pid))
        yield group
    finally:
        Path(group, "pids.max").write_text("max")
        eventually(partial(is_dissolved, group))


def is_dissolved(group: Path) -> bool:
    """Send the processes of a control group back where they were, and tell whether all went."""
    try:
        for pid in Path(group, "cgroup.procs").read_text().split():
            Path(group.parent, "cgroup.procs").write_text(pid)
        group.rmdir()
    except OSError:
        return False
    return True


def _refused(group: Path) -> int:
    """Return how many forks the kernel has refused to a group."""
    return int(Path(group, "pids.events").read_text().split()[1])


# -- supervisors and leaders killed

DRAIN_TIMEOUT = 2.0


@dataclass(frozen=True, slots=True)
class Heads:
    """How many heads roll, and how much later than promised is in time."""

    count: int
    slack: float = 0.0


def kill_supervisors(mode: Mode, is_busy: bool, sizes: Heads, found: Findings) -> None:
    """Kill supervisor after supervisor, and hold all they had to be gone in time."""
    bound = (DRAIN_TIMEOUT if is_busy else 0.0) + 1.0 + sizes.slack
    for _ in range(sizes.count):
        with (
            running(DYING, *mode.arguments, *DRAIN, status=None, expect=EXPECTED) as server,
            busy_clients(server, mode, is_busy=is_busy),
        ):
            family, port = server.family(), clients.port_of(server.address)
            watch = Stopwatch()
            server.kill()
            expect_gone([one.pid for one in family], bound + 5, found)
            eventually(partial(_can_bind, port))
        found.count("supervisors killed", 1)
        found.slowest("nothing left after", watch.seconds)
        found.promise(watch.seconds <= bound, f"{watch.seconds:.2f} s until all was gone")


def expect_gone(pids: Sequence[int], timeout: float, found: Findings) -> None:
    """Hold processes to have ended in time; kill those that have not."""
    watch = Stopwatch()
    for pid in pids:
        gone = processes.wait_until_gone(pid, max(0.0, timeout - watch.seconds))
        found.promise(gone, f"after {timeout:g} s there is still {processes.look_up(pid)}")
        if not gone:
            os.kill(pid, signal.SIGKILL)
            processes.wait_until_gone(pid)


DRAIN = ("--drain-timeout", f"{DRAIN_TIMEOUT:g}")


def _can_bind(port: int) -> bool:
    """Tell whether somebody else can listen there now."""
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


@contextlib.contextmanager
def busy_clients(server: Server, mode: Mode, *, is_busy: bool) -> Iterator[None]:
    """Let some handlers wait where nothing interrupts them, if that is asked for."""
    with ExitStack() as held:
        for _ in range(min(mode.lanes, 4) if is_busy else 0):
            client = held.enter_context(clients.connect(server.address, 30))
            assert clients.command(client, "announce stay") == "started"
        if not is_busy:
            assert clients.ask_line(server.address, "echo here") == "here"
        yield


def kill_leaders(mode: Mode, is_busy: bool, sizes: Heads, found: Findings) -> None:
    """Kill leader after leader, and hold the next to serve, and the old workers to go, in time."""
    bound = (DRAIN_TIMEOUT if is_busy else 0.0) + 1.0 + sizes.slack
    with running(DYING, *mode.arguments, *DRAIN, expect=EXPECTED) as server:
        for _ in range(sizes.count):
            with busy_clients(server, mode, is_busy=is_busy):
                leader = leader_of(server)
                old = [one.pid for one in processes.descendants(leader)]
                watch = Stopwatch()
                os.kill(leader, signal.SIGKILL)
                eventually(partial(_has_successor, server, leader), 30)
                assert clients.ask_line(server.address, "echo again", 30) == "again"
                found.slowest("served again after", watch.seconds)
                served = watch.seconds <= 1 + sizes.slack
                found.promise(served, f"served after {watch.seconds:.2f} s")
                expect_gone(old, bound + 5, found)
                found.slowest("old workers gone after", watch.seconds)
                found.promise(watch.seconds <= bound, f"old workers for {watch.seconds:.2f} s")
            found.count("leaders killed", 1)
            seconds_to_strength(server, mode)


def _has_successor(server: Server, leader: int) -> bool:
    return any(pid != leader for pid in leaders_of(server))


# -- the scenarios


def _per_mode(
    name: str, act: Callable[..., None], modes: Sequence[Mode], small: object, full: object
) -> list[Scenario[Any]]:
    return [
        Scenario(f"{name}-{mode.name}", partial(act, mode), small=small, full=full)
        for mode in modes
    ]


WORKERS_KILLED: list[Scenario[Any]] = [
    *_per_mode("kill-workers", kill_workers, [STRONG], Kills(300, 100, 3.0), Kills(8000, 100)),
    *_per_mode("kill-workers", kill_workers, PLAIN, Kills(100, 50, 3.0), Kills(400, 100)),
]

FORKS_FAILED: list[Scenario[Any]] = [
    *(
        Scenario(
            f"{act.__name__.replace('_', '-')}-{error}-{mode.name}",
            partial(starve, partial(act, error), mode),
            small=Failures(small, 3.0),
            full=Failures(full),
        )
        for act, modes, small, full in (
            (without_workers, [STRONG, MODE["iterative"], MODE["prefork-threads"]], 10, 100),
            (without_leader, [STRONG], 3, 50),
            (without_new_leader, [STRONG], 3, 50),
            (without_servers, [MODE["process"], MODE["thread"]], 10, 50),
            (without_threads, [MODE["thread"], MODE["prefork-threads"]], 5, 10),
        )
        for mode in modes
        for error in ("EAGAIN", "ENOMEM")
    ),
    Scenario(
        "without-room-prefork-4",
        partial(starve, without_room, STRONG),
        small=Failures(10, 3.0),
        full=Failures(100),
    ),
]

SUPERVISORS_KILLED: list[Scenario[Any]] = [
    Scenario(
        f"kill-supervisors-{'busy' if is_busy else 'idle'}-{mode.name}",
        partial(kill_supervisors, mode, is_busy),
        small=Heads(1 if is_busy else 3, 3.0),
        full=Heads(10, 0.25),
    )
    for mode in PLAIN
    for is_busy in (False, True)
]

LEADERS_KILLED: list[Scenario[Any]] = [
    Scenario(
        f"kill-leaders-{'busy' if is_busy else 'idle'}-{mode.name}",
        partial(kill_leaders, mode, is_busy),
        small=Heads(1 if is_busy else 3, 3.0),
        full=Heads(10, 0.25),
    )
    for mode in PLAIN
    for is_busy in (False, True)
]

SCENARIOS: tuple[Scenario[Any], ...] = (
    *WORKERS_KILLED,
    *FORKS_FAILED,
    *SUPERVISORS_KILLED,
    *LEADERS_KILLED,
)
