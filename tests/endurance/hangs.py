"""Let handlers and accept loops hang in every way, and see that nobody else is cut."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tests.endurance.deaths import (
    EXPECTED,
    PLAIN,
    STRONG,
    expect_words,
    is_dissolved,
    leader_of,
    worker_count,
    workers_of,
)
from tests.endurance.load import Load
from tests.endurance.scenario import Findings, Scenario
from tests.support import clients, processes
from tests.support.faults import frozen
from tests.support.modes import MODE, Mode
from tests.support.requirements import missing, requires_root
from tests.support.server import Server, handler, running
from tests.support.waiting import Stopwatch, becomes, eventually, pause

HANGING = handler("hanging.py:Stream")
SLOW = handler("hanging.py:slow_loop")
EXPECT = f"{EXPECTED}|timeout"
TIMEOUT = 1.0
LIVENESS = ("--liveness-timeout", f"{TIMEOUT:g}")
TROUBLEMAKER = "127.0.0.2"


@dataclass(frozen=True, slots=True)
class Hangs:
    """How many hangs, and how much later than promised is in time."""

    count: int
    slack: float = 0.0


@dataclass(frozen=True, slots=True)
class Way:
    """A way to hang, and what of it the log must show: where in the code, or that it stands."""

    name: str
    evidence: str
    flag: str = "--connection-timeout"

    @property
    def reason(self) -> str:
        """Return which of the two timeouts the log must name."""
        return self.flag.removeprefix("--").replace("-", " ")


DUMP = r"(?:Current thread|Thread) 0x[\s\S]*?\b"
STATE = r"\bwas stopped\b|\bis (?:running|sleeping|stopped|waiting)"
IN_HANDLER = [
    Way("sleep", rf"{DUMP}hang_in_sleep\b"),
    Way("spin", rf"{DUMP}hang_in_spin\b"),
    Way("lock", rf"{DUMP}hang_on_lock\b"),
    Way("sum", rf"{DUMP}hang_in_sum\b"),
    Way("regex", rf"{DUMP}hang_in_regex\b"),
    Way("descriptor", rf"{DUMP}hang_on_descriptor\b"),
    Way("deaf", rf"{STATE}|{DUMP}hang_deaf\b"),  # another thread may take the signal
    Way("stopped", STATE, "--liveness-timeout"),
]
WITH_THREADS = [MODE["thread"], MODE["prefork-threads"]]
# A whole worker stands still with these, and takes along what its other threads serve.
WHOLE_WORKER = {"sum", "regex", "stopped"}


# -- handlers that hang


def hang(mode: Mode, way: Way, sizes: Hangs, found: Findings) -> None:
    """Hang in a handler so many times, and hold the server to cut that connection alone."""
    flags = (way.flag, f"{TIMEOUT:g}", "--drain-timeout", "2")
    with running(HANGING, *mode.arguments, *flags, expect=EXPECT) as server:
        for number in range(1, sizes.count + 1):
            with hanging(server, way) as client, others(server, mode, way, found):
                watch = Stopwatch()
                found.promise(clients.ends(client), "the hanging client was answered")
                expect_in_time(watch.seconds, sizes, found)
                peer = "{}:{}".format(*client.getsockname())
            expect_words(server, rf"{way.reason}[\s\S]*{re.escape(peer)}", 1, found)
            expect_words(server, way.evidence, number, found)
            assert clients.ask_line(server.address, "pid", 30)
            found.count("hangs", 1)


@contextlib.contextmanager
def hanging(server: Server, way: Way) -> Iterator[socket.socket]:
    """Yield a client whose handler has just begun to hang."""
    with clients.connect(server.address, 30) as client:
        assert clients.command(client, f"hang {way.name}") == "started"
        yield client


@contextlib.contextmanager
def others(server: Server, mode: Mode, way: Way, found: Findings) -> Iterator[None]:
    """Hold other clients, if there is room beside the one that hangs, to be served all along."""
    is_shared = mode in WITH_THREADS and way.name in WHOLE_WORKER
    if mode.lanes == 1 or is_shared:
        yield
        return
    with Load(server.address, clients=2) as load:
        yield
        load.wait_for_more(10)
    found.promise_no_failure(load)


def expect_in_time(seconds: float, sizes: Hangs, found: Findings) -> None:
    """Hold a connection to be cut at its timeout, and no later than a second after."""
    found.slowest("cut after", seconds)
    found.promise(seconds >= TIMEOUT * 0.9, f"cut too early, after {seconds:.2f} s")
    found.promise(seconds <= TIMEOUT + 1 + sizes.slack, f"cut after {seconds:.2f} s")


def stop_the_serving(mode: Mode, sizes: Hangs, found: Findings) -> None:
    """Stop the process that serves a connection, from outside, and hold it to be replaced."""
    with running(HANGING, *mode.arguments, *LIVENESS, expect=EXPECT) as server:
        for number in range(1, sizes.count + 1):
            with clients.connect(server.address, 30) as client:
                pid = int(clients.command(client, "pid"))
                watch = Stopwatch()
                os.kill(pid, signal.SIGSTOP)
                found.promise(clients.ends(client), "the stopped process answered")
                expect_in_time(watch.seconds, sizes, found)
            expect_words(server, "liveness timeout", number, found)
            expect_words(server, STATE, number, found)
            assert int(clients.ask_line(server.address, "pid", 30)) != pid
            found.count("hangs", 1)


def stop_an_idle_worker(mode: Mode, sizes: Hangs, found: Findings) -> None:
    """Stop a worker that serves nobody, and hold it to be replaced."""
    with running(HANGING, *mode.arguments, *LIVENESS, expect=EXPECT) as server:
        for number in range(1, sizes.count + 1):
            stopped = workers_of(server)[0]
            watch = Stopwatch()
            os.kill(stopped, signal.SIGSTOP)
            found.promise(processes.wait_until_gone(stopped, 30), "the stopped worker stays")
            expect_in_time(watch.seconds, sizes, found)
            expect_words(server, "liveness timeout", number, found)
            becomes(True, lambda old=stopped: old not in workers_of(server) != [])  # type: ignore[misc]
            assert clients.ask_line(server.address, "pid", 30)
            found.count("hangs", 1)


def hang_in_loop(target: str, where: str, mode: Mode, sizes: Hangs, found: Findings) -> None:
    """Hang where an adopted server takes clients, and hold its worker to be replaced."""
    flags = (*LIVENESS, "--connection-timeout", f"{TIMEOUT:g}", "--drain-timeout", "2")
    with running(handler(f"hanging.py:{target}"), *mode.arguments, *flags, expect=EXPECT) as server:
        for number in range(1, sizes.count + 1):
            home = ("127.0.0.1", clients.port_of(server.address))
            watch = Stopwatch()
            with socket.create_connection(home, 30, source_address=(TROUBLEMAKER, 0)) as client:
                client.sendall(b"hello\n")
                found.promise(clients.ends(client), "the loop that hangs has answered")
                expect_in_time(watch.seconds, sizes, found)
            expect_words(server, rf"{DUMP}{where}\b", number, found)
            assert clients.ask_line(server.address, "hello", 30) == "hello"
            found.count("hangs", 1)


def stop_a_hang(mode: Mode, sizes: Hangs, found: Findings) -> None:
    """Stop a server while a handler hangs, and hold it not to wait beyond that one's timeout."""
    flags = ("--connection-timeout", f"{TIMEOUT:g}", "--drain-timeout", "60")
    for _ in range(sizes.count):
        with (
            running(HANGING, *mode.arguments, *flags, expect=EXPECT) as server,
            hanging(server, IN_HANDLER[0]) as client,
        ):
            watch = Stopwatch()
            server.signal(signal.SIGTERM)
            found.promise(clients.ends(client), "the hanging client was answered")
            expect_in_time(watch.seconds, sizes, found)
            found.promise(server.wait(30) == 0, "its status is not 0")
            found.slowest("ended after", watch.seconds)
            in_time = watch.seconds <= TIMEOUT + 2 + sizes.slack
            found.promise(in_time, f"ended after {watch.seconds:.2f} s")
            found.count("stops", 1)


def retire(mode: Mode, sizes: Hangs, found: Findings) -> None:
    """Let a thread hang, and hold its worker to leave after its replacement has come."""
    flags = ("--connection-timeout", f"{TIMEOUT:g}", "--drain-timeout", "1")
    with running(HANGING, *mode.arguments, *flags, expect=EXPECT) as server:
        for _ in range(sizes.count):
            count = worker_count(mode)
            becomes(count, lambda: len(workers_of(server)), 10)  # the last ones may still leave
            before = set(workers_of(server))
            with Load(server.address, clients=4) as load:
                with hanging(server, IN_HANDLER[0]) as client:
                    assert clients.ends(client)
                eventually(partial(_has_replacement, server, before), 30)
                load.wait_for_more(50)
            found.promise_no_failure(load)
            becomes(count, lambda: len(workers_of(server)), 10)
            found.count("workers retired", 1)


def _has_replacement(server: Server, before: set[int]) -> bool:
    """Tell whether one of the workers has left, and never were there fewer than before."""
    now = set(workers_of(server))
    assert len(now) >= len(before), f"{len(now)} workers instead of {len(before)}"
    return not before <= now


# -- what is no hang


def be_long(mode: Mode, sizes: Hangs, found: Findings) -> None:
    """Work for longer than the liveness timeout, and than an extended connection timeout."""
    with running(HANGING, *mode.arguments, *LIVENESS) as server:
        _work_long(server, ["wait 2.5"], sizes, found)
    connection = ("--connection-timeout", f"{TIMEOUT:g}")
    with running(HANGING, *mode.arguments, *connection) as server:
        _work_long(server, ["extend 5", "wait 2.5"], sizes, found)


def _work_long(server: Server, lines: Sequence[str], sizes: Hangs, found: Findings) -> None:
    for _ in range(sizes.count):
        with clients.connect(server.address, 30) as client:
            for line in lines:
                found.promise(clients.command(client, line) != "", f"cut in {line!r}")
        found.count("long handlers", 1)


# -- who is not to blame for a hang


@dataclass(frozen=True, slots=True)
class Ordeal:
    """How often something goes on for how many seconds."""

    count: int
    seconds: float


def suspend(who: str, mode: Mode, sizes: Ordeal, found: Findings) -> None:
    """Suspend those who judge, or everybody, and hold them to cut nobody when they wake up."""
    flags = (*LIVENESS, "--connection-timeout", "2")
    with (
        running(HANGING, *mode.arguments, *flags) as server,
        innocent(server, found) as load,
    ):
        for _ in range(sizes.count):
            with ExitStack() as suspended:
                if who == "everybody":
                    suspended.enter_context(waiting(server, sizes.seconds + 1, found))
                    judges = server.processes()
                else:
                    judges = server.processes()[:2]
                with frozen([one.pid for one in judges]):
                    pause(sizes.seconds)
            load.wait_for_more(20)
            pause(TIMEOUT)
            found.count("suspensions", 1)


@contextlib.contextmanager
def waiting(server: Server, seconds: float, found: Findings) -> Iterator[None]:
    """Hold a connection to be answered whose handler takes so long, beginning with the block."""
    with clients.connect(server.address, 30) as client:
        clients.command(client, "pid")
        client.sendall(f"wait {seconds:g}\n".encode())
        pause(0.2)
        yield
        found.promise(clients.read_line(client) != b"", "what was suspended was cut")


def starve_of_cpu(mode: Mode, sizes: Ordeal, found: Findings) -> None:
    """Let a server that computes have next to no processor, and hold it to kill nobody."""
    requires_root()
    with running(SLOW, *mode.arguments, *LIVENESS) as server, innocent(server, found) as load:
        with slow_group([one.pid for one in server.processes()]):
            for _ in range(sizes.count):
                pause(sizes.seconds)
                found.count("seconds of starvation", sizes.seconds)
        load.wait_for_more(20)


def outnumber(mode: Mode, sizes: Ordeal, found: Findings) -> None:
    """Let four ordinary programs run before a humble server, and hold it to kill nobody."""
    requires_root()
    under = ["nice", "-n", "19"]
    with (
        running(SLOW, *mode.arguments, *LIVENESS, under=under) as server,
        innocent(server, found) as load,
        ExitStack() as ordinary,
    ):
        for one in server.processes():  # a session shares its processors with others as one
            Path(f"/proc/{one.pid}/autogroup").write_text("19")
        for _ in range(4):
            ordinary.enter_context(spinning())
        pause(sizes.seconds * sizes.count)
        found.count("seconds of starvation", sizes.seconds * sizes.count)
        ordinary.close()
        for one in server.processes():  # other tests may want the processors as much
            os.setpriority(os.PRIO_PROCESS, one.pid, 0)
            Path(f"/proc/{one.pid}/autogroup").write_text("0")
        load.wait_for_more(1)


@contextlib.contextmanager
def spinning() -> Iterator[None]:
    """Run a program that wants a whole processor, with no right to more than the other tests."""
    with subprocess.Popen([sys.executable, "-ISc", "while True: pass"]) as program:
        try:
            yield
        finally:
            program.kill()


@contextlib.contextmanager
def slow_group(pids: Sequence[int]) -> Iterator[None]:
    """Let processes have 50 ms of a processor in each second, all together."""
    group = Path(f"/sys/fs/cgroup/cpu/forkserve-{os.getpid()}")
    try:
        group.mkdir()
        Path(group, "cpu.cfs_period_us").write_text("1000000")
        Path(group, "cpu.cfs_quota_us").write_text("50000")
    except OSError:
        missing("a control group for processors")
    try:
        for pid in pids:
            Path(group, "cgroup.procs").write_text(str(pid))
        yield
    finally:
        Path(group, "cpu.cfs_quota_us").write_text("-1")
        eventually(partial(is_dissolved, group))


@contextlib.contextmanager
def innocent(server: Server, found: Findings) -> Iterator[Load]:
    """Hold a server to keep its processes over the block, and every client to be served."""
    before = [server.pid, leader_of(server), *workers_of(server)]
    with Load(server.address, clients=4) as load:
        yield load
    found.promise_no_failure(load)
    after = [server.pid, leader_of(server), *workers_of(server)]
    found.promise(before == after, f"{before} became {after}")
    found.promise("timeout" not in server.stderr_so_far(), server.stderr_so_far())
    found.count("false kills", len(set(before) - set(after)))


FAKETIME = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1"


def jump(mode: Mode, sizes: Ordeal, found: Findings) -> None:
    """Let the clock on the wall jump to and fro by an hour, and hold nobody to be killed."""
    if not os.path.exists(FAKETIME):
        missing("libfaketime")
    clock = found.folder / "clock"
    clock.write_text("+0\n")
    env = {
        "LD_PRELOAD": FAKETIME,
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    with (
        running(HANGING, *mode.arguments, *LIVENESS, env=env) as server,
        innocent(server, found) as load,
    ):
        for number in range(sizes.count):
            clock.write_text("-3600\n" if number % 2 else "+3600\n")
            pause(sizes.seconds)
            load.wait_for_more(20)
            found.count("jumps", 1)


# -- the scenarios

HANDLERS_HANG: list[Scenario[Any]] = [
    Scenario(
        f"hang-{way.name}-{mode.name}",
        partial(hang, mode, way),
        small=Hangs(1, 3.0),
        full=Hangs(4),
    )
    for way in IN_HANDLER
    for mode in PLAIN
]
PROCESSES_STOPPED: list[Scenario[Any]] = [
    *(
        Scenario(
            f"stop-the-serving-{mode.name}",
            partial(stop_the_serving, mode),
            small=Hangs(1, 3.0),
            full=Hangs(5),
        )
        for mode in PLAIN
    ),
    *(
        Scenario(
            f"stop-an-idle-worker-{mode.name}",
            partial(stop_an_idle_worker, mode),
            small=Hangs(1, 3.0),
            full=Hangs(5),
        )
        for mode in PLAIN
    ),
]
LOOPS_HANG: list[Scenario[Any]] = [
    *(
        Scenario(
            f"hang-in-{target.replace('_', '-')}-{mode.name}",
            partial(hang_in_loop, target, where, mode),
            small=Hangs(1, 3.0),
            full=Hangs(3),
        )
        for target, where in (("stuck_loop", "get_request"), ("stuck_door", "verify_request"))
        for mode in PLAIN
        # In threads get_request runs in a lane, which holds nothing yet: other lanes go on.
        if where != "get_request" or "thread" not in mode.name
    ),
    Scenario(  # who wants a processor and gets none is not stuck: on a busy machine it takes longer
        "hang-in-spinning-loop",
        partial(hang_in_loop, "spinning_loop", "get_request", STRONG),
        small=Hangs(1, 20.0),
        full=Hangs(3, 5.0),
    ),
]
STOPS: list[Scenario[Any]] = [
    Scenario(f"stop-a-hang-{mode.name}", partial(stop_a_hang, mode), Hangs(1, 3.0), Hangs(3))
    for mode in PLAIN
]
WORKERS_RETIRE: list[Scenario[Any]] = [
    Scenario(f"retire-{mode.name}", partial(retire, mode), small=Hangs(1, 3.0), full=Hangs(5))
    for mode in WITH_THREADS
]
NO_HANGS: list[Scenario[Any]] = [
    *(
        Scenario(f"be-long-{mode.name}", partial(be_long, mode), small=Hangs(1), full=Hangs(3))
        for mode in PLAIN
    ),
    *(
        Scenario(
            f"suspend-{who}-{mode.name}",
            partial(suspend, who, mode),
            small=Ordeal(1, 3.0),
            full=Ordeal(2, 10.0),
        )
        for who in ("judges", "everybody")
        for mode in PLAIN
    ),
    Scenario(
        "starve-of-cpu", partial(starve_of_cpu, STRONG), small=Ordeal(1, 4.0), full=Ordeal(1, 20.0)
    ),
    Scenario("outnumber", partial(outnumber, STRONG), small=Ordeal(1, 3.0), full=Ordeal(1, 10.0)),
    Scenario("jump", partial(jump, STRONG), small=Ordeal(4, 0.5), full=Ordeal(20, 1.0)),
]

SCENARIOS: tuple[Scenario[Any], ...] = (
    *HANDLERS_HANG,
    *PROCESSES_STOPPED,
    *LOOPS_HANG,
    *STOPS,
    *WORKERS_RETIRE,
    *NO_HANGS,
)
