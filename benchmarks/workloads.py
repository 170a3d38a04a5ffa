"""What each mode is for: seven workloads, each served in every mode.

    python3 benchmarks/workloads.py [--quick] [--only NAME...] [--json FILE]

Handlers and clients are in workload_handlers.py. Server and load share all CPUs, as on a machine
of a user's; 32 clients come one after another, each as soon as one has ended, unless a table says
otherwise. In every round each mode has its turn, in a new order; figures are medians, ratios are
taken round by round against prefork, the default. A mode in whose turns anything failed has no
figure. The exit status is 0, or 1 when something failed that should not.
"""

import argparse
import math
import os
import re
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import workload_handlers as sides
from benchmarks.report import Report
from benchmarks.servers import CHECKOUT, Server
from forkserve.bench.chart import Chart
from forkserve.bench.conversation import Converse, Ending, Exchange
from forkserve.bench.figures import Ratio, ratio
from forkserve.bench.idle import RESERVE, holding, raise_limit
from forkserve.bench.load import Order, Result
from forkserve.bench.rounds import (
    Generator,
    LoadFailed,
    Turn,
    middle,
    require_good,
    run_rounds,
    shuffled,
    take_turn,
)
from forkserve.bench.server import SETTLE, ServerFailed, forkserve_command
from forkserve.bench.table import Table, show_bytes, show_count, show_time
from forkserve.bench.usage import available_memory, memory, tree

CONCURRENCY = 32
RELEASE_TIMEOUT = BEGIN_TIMEOUT = 20.0
BESIDE = 4  # clients at a time beside idle connections
SLOW = 8  # slow readers at a time
CPUS = len(os.sched_getaffinity(0))
FEW_ROUNDS = 5
CLEAR = 1.1
NOT_SERVED = "none is served"
EXPECTED_OF_A_CRASH = {"reset", "cut short", "reset while connecting"}
DEATH = re.compile(r"\b(?:worker|connection process) \d+ was killed by SIGSEGV")
THREAD_AT_MOST = 100_000  # bytes of a thread and its share of the kernel's, for what may be tried

DEFAULT = "prefork"
MODES = {
    "iterative": ("iterative",),
    "thread": ("thread",),
    "process": ("process",),
    "process --spare 4": ("process", "--spare", "4", "--connections-per-child", "100"),
    "prefork": ("prefork",),
    "prefork --threads 16": ("prefork", "--threads", "16"),
}
LEGEND = (
    f"process --spare 4: with --connections-per-child 100; prefork: {CPUS} workers, one a CPU",
)


@dataclass(frozen=True, slots=True)
class Workload:
    """A handler, who its clients are, and what of a mode decides here."""

    name: str
    title: str
    handler: str
    talk: Converse
    waiting: float = 0.0  # seconds of a connection in which its handler waits
    is_computing: bool = False
    has_slow_readers: bool = False
    has_crashes: bool = False
    notes: tuple[str, ...] = ()


def expect(answer: bytes) -> Exchange:
    """Return a client that is answered so, and then sees the server end the connection."""
    return Exchange(sides.QUESTION, answer, Ending.SERVER)


ECHOED = Exchange(sides.QUESTION, sides.QUESTION)
SLOW_READER = sides.LargeAnswer(sides.SLOWLY, sides.TIMES, sides.PIECE, sides.PAUSE)
WORKLOADS = {
    one.name: one
    for one in (
        Workload(
            "computing",
            "Some milliseconds of pure Python a connection",
            "Compute",
            expect(sides.compute(sides.COMPUTING)),
            is_computing=True,
        ),
        Workload(
            "waiting",
            "A wait of 10 ms a connection, as for a database",
            "Wait",
            expect(sides.ANSWER),
            waiting=sides.WAITING,
        ),
        Workload(
            "mixed",
            "2 ms of pure Python and a wait of 8 ms a connection",
            "Mix",
            expect(sides.compute(sides.MIXED_COMPUTING)),
            waiting=sides.MIXED_WAITING,
        ),
        Workload("large", "Answers of 1 MB", "Large", sides.LargeAnswer(sides.QUESTION)),
        Workload(
            "slow-readers",
            f"Small answers beside {SLOW} slow readers of large ones",
            "ForReaders",
            expect(sides.ANSWER),
            has_slow_readers=True,
            notes=(
                f"a slow reader takes {sides.TIMES} MB in pieces of"
                f" {show_bytes(sides.PIECE)}, {show_time(sides.PAUSE)} apart;"
                " figures are the others', CPU each includes what the slow ones cost",
            ),
        ),
        Workload(
            "crashes",
            f"A wait of 10 ms a connection, and one client in {sides.CRASH_EVERY} crashes its"
            " process",
            "Crash",
            sides.CrashingClients(),
            has_crashes=True,
            notes=(
                "answers are the others'; lost: clients that asked for no crash and were cut off by"
                " one, for each process that died; who loses any is out",
            ),
        ),
    )
}
IDLE = "idle"
NAMES = (*WORKLOADS, IDLE)


@dataclass(frozen=True, slots=True)
class Effort:
    """How often servers start, how many rounds each start has, how long a turn is.

    And how many idle connections are held.
    """

    starts: int
    rounds: int
    seconds: float
    warm_up: float
    idle_rounds: int
    idle: int
    idle_processes: int  # where each takes a process


FULL = Effort(4, 4, 0.25, 0.3, idle_rounds=3, idle=5000, idle_processes=500)
QUICK = Effort(1, 2, 0.1, 0.0, idle_rounds=2, idle=500, idle_processes=50)


# -- what is decided, from figures alone


@dataclass(frozen=True, slots=True)
class Standing:
    """A mode's figures, one a round and the more the better; without them, why.

    The rounds are those of so many starts of its server.
    """

    figures: tuple[float, ...]
    fault: str = ""
    starts: int = 1


@dataclass(frozen=True, slots=True)
class Decision:
    """Who is best: one, or several whom the rounds do not tell apart, the best median first."""

    best: tuple[str, ...] = ()
    next: str = ""  # the best of those who are surely worse
    over_next: Ratio | None = None
    over_default: Ratio | None = None

    @property
    def is_tie(self) -> bool:
        """Whether there is more than one."""
        return len(self.best) > 1


def decide(standings: Mapping[str, Standing], default: str) -> Decision:
    """Return who is best of those without a fault, and by how much over the others."""
    figures = {name: one.figures for name, one in standings.items() if not one.fault}
    if not figures:
        return Decision()
    order = sorted(figures, key=lambda name: -statistics.median(figures[name]))
    first = figures[order[0]]
    starts = standings[order[0]].starts
    ratios = {name: ratio(first, figures[name], starts=starts) for name in order[1:]}
    worse = [name for name, over in ratios.items() if is_clear(over, len(first))]
    return Decision(
        best=tuple(name for name in order if name not in worse),
        next=worse[0] if worse else "",
        over_next=ratios[worse[0]] if worse else None,
        over_default=ratios.get(default),
    )


def is_clear(over: Ratio, rounds: int) -> bool:
    """Tell whether the first of two is better for sure.

    The interval of a few rounds is too narrow to be believed, so it must leave some room.
    """
    return rounds > 1 and over.low > (1.0 if rounds >= FEW_ROUNDS else CLEAR)


def lost_for_each(failures: Mapping[str, int], deaths: int) -> float:
    """Return how many clients a crash has cost beside the one that asked for it.

    The failures are of all clients, those who asked included; nan without a crash.
    """
    lost = sum(failures.values())
    if lost < deaths:
        raise LoadFailed(f"{deaths} processes died, and only {lost} clients were lost by it")
    return (lost - deaths) / deaths if deaths else math.nan


def unexpected(failures: Mapping[str, int], *, has_crashes: bool) -> dict[str, int]:
    """Return those failures that the workload does not bring with it."""
    expected = EXPECTED_OF_A_CRASH if has_crashes else ()
    return {name: count for name, count in failures.items() if name not in expected}


def count_deaths(said: str) -> int:
    """Return how many processes a server's log says were crashed by a client."""
    return len(DEATH.findall(said))


def places(mode: Sequence[str], cpus: int) -> float:
    """Return how many connections a mode serves at the same time, whatever the clients do."""
    if mode[0] == "iterative":
        return 1
    if mode[0] == "prefork":
        threads = int(mode[mode.index("--threads") + 1]) if "--threads" in mode else 1
        return cpus * threads
    return math.inf


# -- what a mode has done


@dataclass(slots=True)
class Outcome:
    """A mode's turns under one workload, and what was wrong with them."""

    turns: list[Turn] = field(default_factory=list)
    fault: str = ""
    deaths: int = 0
    starts: int = 1

    @property
    def failures(self) -> dict[str, int]:
        """What became of those without an answer, over all rounds."""
        names = sorted({name for turn in self.turns for name in turn.failures})
        return {name: sum(turn.failures.get(name, 0) for turn in self.turns) for name in names}

    @property
    def lost(self) -> float:
        """How many other clients each crash has cost."""
        return lost_for_each(self.failures, self.deaths)

    @property
    def standing(self) -> Standing:
        """What it is judged by: answers a second, and whether others were lost."""
        if self.fault:
            return Standing((), self.fault)
        fault = f"loses {self.lost:.1f} for a crash" if self.lost > 0 else ""
        return Standing(tuple(turn.throughput for turn in self.turns), fault, self.starts)

    def middle(self, figure: Callable[[Turn], float]) -> float:
        """Return the median of a figure; nan where there is none to give."""
        return math.nan if self.fault else middle(self.turns, figure)

    def judge(self, name: str, turn: Turn, workload: Workload) -> None:
        """Keep a turn, and note what should not have happened in it; wrong answers end it all."""
        self.turns.append(turn)
        if turn.failures.get("wrong answer"):
            require_good(name, turn)
        wrong = unexpected(turn.failures, has_crashes=workload.has_crashes)
        if wrong or not turn.ok:
            self.fault = describe(wrong) or "no answer"


def describe(failures: Mapping[str, int]) -> str:
    """Return failures in one line."""
    return ", ".join(f"{count} {what}" for what, count in failures.items())


# -- load


def start(handler: str, mode: Sequence[str], *options: str) -> Server:
    """Return a server of one of the workloads' handlers."""
    target = f"benchmarks/workload_handlers.py:{handler}"
    address = ("-b", "tcp://127.0.0.1:0")
    return Server(forkserve_command(target, mode[0], *mode[1:], *address, *options))


def measure(workload: Workload, effort: Effort) -> dict[str, Outcome]:
    """Serve a workload in every mode, round by round."""
    outcomes = {name: Outcome(starts=effort.starts) for name in MODES}
    run = run_beside if workload.has_slow_readers else run_plain
    for _ in range(effort.starts):
        with ExitStack() as stack, Generator(workload.talk) as generator:
            servers = {
                name: stack.enter_context(start(workload.handler, mode))
                for name, mode in MODES.items()
            }
            run(workload, effort, generator, servers, outcomes)
            for name, server in servers.items():
                outcomes[name].deaths += count_deaths(server.said())
    return outcomes


def make_order(server: Server, seconds: float) -> Order:
    """Return the usual load for so many seconds."""
    return Order(server.address, CONCURRENCY, seconds)


def run_plain(
    workload: Workload,
    effort: Effort,
    generator: Generator,
    servers: Mapping[str, Server],
    outcomes: Mapping[str, Outcome],
) -> None:
    """Load each server by itself."""
    run_rounds(
        servers,
        generator,
        lambda server: Order(server.address, CONCURRENCY, effort.seconds),
        effort.rounds,
        warm_up=0.0 if workload.has_crashes else effort.warm_up,  # each crash is accounted for
        weighs_each=workload.has_crashes or not effort.warm_up,
        on_turn=lambda name, turn: outcomes[name].judge(name, turn, workload),
    )


def run_beside(
    workload: Workload,
    effort: Effort,
    generator: Generator,
    servers: Mapping[str, Server],
    outcomes: Mapping[str, Outcome],
) -> None:
    """Load each server while it also has slow readers."""
    for number in range(1, effort.rounds + 1):
        for name in shuffled(servers, number):
            server = servers[name]
            with slow_readers(server.address) as slow:
                turn = take_turn(server, generator, make_order(server, effort.seconds))
            outcomes[name].judge(name, turn, workload)
            if lost := failures_of(slow):
                raise LoadFailed(f"{name}: slow readers: {describe(lost)}")


@contextmanager
def slow_readers(address: str) -> Iterator[list[Result]]:
    """Have slow readers while the block runs; what became of them is known when it has ended."""
    generator = Generator(SLOW_READER)
    order = Order(address, SLOW, seconds=60.0, patience=60.0)
    found: list[Result] = []
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(generator.run, order)
        try:
            wait_until_connected(generator, future)
            yield found
        finally:
            for process in generator.running:
                process.terminate()  # no new ones, and those who read read on
        found += future.result()


def wait_until_connected(generator: Generator, future: Future[list[Result]]) -> None:
    """Wait until the one process of a generator has all its connections."""
    limit = monotonic() + BEGIN_TIMEOUT
    while not future.done() and monotonic() < limit:
        if any(count_sockets(process.pid) >= SLOW for process in generator.running):
            return
        wait_for([future], timeout=SETTLE)
    raise LoadFailed("slow readers do not begin")


def count_sockets(pid: int) -> int:
    """Return how many sockets a process has open."""
    found = 0
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            found += str(descriptor.readlink()).startswith("socket:")
    return found


def failures_of(results: Sequence[Result]) -> dict[str, int]:
    """Return what became of those of some processes who had no good answer."""
    totals: dict[str, int] = {}
    for result in results:
        for name, count in result.outcomes.items():
            if count and name != "ok":
                totals[name] = totals.get(name, 0) + count
    return totals


# -- idle connections


@dataclass(slots=True)
class Held:
    """A mode with idle connections: their memory, and short connections served beside them."""

    count: int
    each: list[float] = field(default_factory=list)  # bytes, one a round
    outcome: Outcome = field(default_factory=Outcome)

    @property
    def standing(self) -> Standing:
        """What it is judged by: how many connections a byte holds."""
        fault = self.outcome.fault
        return Standing(() if fault else tuple(1 / size for size in self.each), fault)


def idle_modes(count: int) -> dict[str, Sequence[str]]:
    """Return the modes, and besides a prefork with threads enough for so many connections."""
    threads = math.ceil((count + 2 * BESIDE) / CPUS)
    return {**MODES, f"prefork --threads {threads}": ("prefork", "--threads", str(threads))}


def how_many_to_hold(wanted: int, available: int) -> int:
    """Return how many idle connections this machine's descriptors and memory allow."""
    count = min(wanted, available // (4 * THREAD_AT_MOST))
    while count > 1:
        try:
            raise_limit(count + RESERVE)
        except OSError:
            count = count * 3 // 4
        else:
            break
    return count


def measure_idle(effort: Effort, count: int) -> dict[str, Held]:
    """Hold idle connections in every mode, each time with a fresh server."""
    modes = idle_modes(count)
    found: dict[str, Held] = {}
    for name, mode in modes.items():
        if places(mode, CPUS) < count + BESIDE:
            found[name] = find_whether_served(name, mode, count)
        else:
            most = effort.idle_processes if mode[0] == "process" else count
            found[name] = Held(min(count, most))
    able = [name for name, held in found.items() if not held.outcome.fault]
    for number in range(1, effort.idle_rounds + 1):
        for name in shuffled(able, number):
            hold(name, modes[name], found[name], effort.seconds)
    return found


def start_for(mode: Sequence[str], count: int) -> Server:
    """Return a server that may hold so many and serve others beside them."""
    return start("Echo", mode, "--max-connections", str(count + 100))


def find_whether_served(name: str, mode: Sequence[str], count: int) -> Held:
    """Show that a mode whose every place is taken by an idle connection serves nobody."""
    held = Held(min(count, int(places(mode, CPUS)) + BESIDE))
    with start_for(mode, held.count) as server, holding(server.address, held.count):
        order = Order(server.address, BESIDE, 0.2, patience=0.5)
        turn = take_turn(server, Generator(ECHOED), order)
    if turn.ok:
        raise LoadFailed(f"{name} serves beside {held.count} idle connections after all")
    held.outcome.fault = NOT_SERVED
    return held


def hold(name: str, mode: Sequence[str], held: Held, seconds: float) -> None:
    """Give a mode one turn with idle connections."""
    with start_for(mode, held.count) as server:
        order = Order(server.address, BESIDE, seconds)
        generator = Generator(ECHOED)
        take_turn(server, generator, Order(server.address, BESIDE, 0.1))
        members, before = len(tree(server.pid)), memory(server.pid)
        with holding(server.address, held.count, sides.QUESTION, sides.QUESTION):
            held.each.append((memory(server.pid) - before) / held.count)
            turn = take_turn(server, generator, order)
        wait_until_released(server, members)
    held.outcome.judge(name, turn, IDLE_TURN)


def wait_until_released(server: Server, members: int) -> None:
    """Let the processes of a server end that held connections, so that its account can close."""
    limit = monotonic() + RELEASE_TIMEOUT
    while len(tree(server.pid)) > members and monotonic() < limit:
        server.ends_within(SETTLE)


IDLE_TURN = Workload(IDLE, "Idle connections", "Echo", ECHOED)


# -- tables


def show_decimal(value: float) -> str:
    """Return a figure with one decimal, or that there is none."""
    return "-" if math.isnan(value) else f"{value:.1f}"


def show_rate(value: float) -> str:
    """Return answers a second, or that there is no figure."""
    return "-" if math.isnan(value) else show_count(value)


def show_memory(size: float) -> str:
    """Return an amount of memory, or that there is no figure."""
    return "-" if math.isnan(size) else show_bytes(size)


def figures_of(outcome: Outcome) -> tuple[str, ...]:
    """Return the cells that every table has."""
    return (
        show_rate(outcome.middle(lambda turn: turn.throughput)),
        show_time(outcome.middle(lambda turn: turn.p50)),
        show_time(outcome.middle(lambda turn: turn.p99)),
        show_time(outcome.middle(lambda turn: turn.cpu_each)),
    )


FIGURES = ("answers/s", "p50", "p99", "CPU each")


def tabulate(workload: Workload, outcomes: Mapping[str, Outcome]) -> Table:
    """Return a workload's table."""
    of_crashes = ("died", "lost") if workload.has_crashes else ()
    columns = ("mode", *FIGURES, "memory", "failures", *of_crashes)
    rows = []
    for name, outcome in outcomes.items():
        held = show_memory(outcome.middle(lambda turn: turn.memory))
        failures: tuple[str, ...] = (outcome.fault or describe(outcome.failures) or "none",)
        if workload.has_crashes:
            failures = (*failures, str(outcome.deaths), show_decimal(outcome.lost))
        rows.append((name, *figures_of(outcome), held, *failures))
    notes = (*workload.notes, *LEGEND, *notes_on_load(outcomes))
    return Table(workload.title, columns, tuple(rows), notes)


def notes_on_load(outcomes: Mapping[str, Outcome]) -> tuple[str, ...]:
    """Name the modes that could have done more with a faster load generator."""
    busy = [name for name, one in outcomes.items() if one.middle(lambda turn: turn.generator) > 0.9]
    return (f"the load generator was the limit of: {', '.join(busy)}",) if busy else ()


def tabulate_idle(count: int, found: Mapping[str, Held]) -> Table:
    """Return the table of idle connections."""
    columns = ("mode", "held", "memory each", f"of {show_count(count)}", *FIGURES, "failures")
    rows = []
    for name, held in found.items():
        each = statistics.median(held.each) if held.each else math.nan
        mark = "" if held.count == count or math.isnan(each) else " *"
        rows.append(
            (
                name,
                show_count(held.count),
                show_memory(each),
                show_memory(each * count) + mark,
                *figures_of(held.outcome),
                held.outcome.fault or "none",
            )
        )
    notes = (
        f"answers/s and what follows: {BESIDE} short connections at a time beside the idle ones",
        "* not held but reckoned from the fewer that were, since each takes a process",
        f"{NOT_SERVED}: the idle ones take every place, and whoever comes next waits",
        *LEGEND,
    )
    title = f"{show_count(count)} idle connections"
    return Table(title, columns, tuple(rows), notes)


def draw(workload: Workload, outcomes: Mapping[str, Outcome]) -> Chart:
    """Return bars of answers a second."""
    rates = tuple(one.middle(lambda turn: turn.throughput) for one in outcomes.values())
    return Chart(
        workload.title, "mode", "answers a second", tuple(outcomes), {"answers/s": rates}, "bars"
    )


def draw_idle(found: Mapping[str, Held]) -> Chart:
    """Return bars of the memory of an idle connection."""
    sizes = {name: statistics.median(held.each) for name, held in found.items() if held.each}
    return Chart(
        "Memory of an idle connection",
        "mode",
        "kB",
        tuple(sizes),
        {"memory": tuple(size / 1000 for size in sizes.values())},
        "bars",
        is_logarithmic=True,
    )


# -- the summary


def whom_to_compare(decision: Decision, standings: Mapping[str, Standing]) -> str:
    """Return beside whom the best one's figures say most: the default if it is surely worse."""
    is_worse = DEFAULT not in decision.best and not standings[DEFAULT].fault
    return DEFAULT if is_worse else decision.next


def why(workload: Workload, outcomes: Mapping[str, Outcome], decision: Decision) -> str:
    """Say in figures what the best one has over the one it is compared with."""
    best = decision.best[0]
    other = whom_to_compare(decision, {name: one.standing for name, one in outcomes.items()})

    def compare(figure: Callable[[Turn], float], show: Callable[[float], str]) -> str:
        text = show(outcomes[best].middle(figure))
        return f"{text}, {other} {show(outcomes[other].middle(figure))}" if other else text

    losers = {name: one.lost for name, one in outcomes.items() if one.lost > 0}
    if losers:
        most = max(losers, key=lambda name: losers[name])
        return f"0 others lost for a crash, {most} {losers[most]:.1f}"
    if workload.has_slow_readers:
        return "p99: " + compare(lambda turn: turn.p99, show_time)
    if workload.waiting:
        return "waits at a time: " + compare(
            lambda turn: turn.throughput * workload.waiting, show_decimal
        )
    if workload.is_computing:
        return "CPUs busy: " + compare(lambda turn: turn.cpu / turn.seconds, show_decimal)
    return "CPU each: " + compare(lambda turn: turn.cpu_each, show_time)


def why_idle(found: Mapping[str, Held], decision: Decision) -> str:
    """Say how much memory an idle connection takes in the best mode and in the worst."""
    sizes = {name: statistics.median(held.each) for name, held in found.items() if held.each}
    best, worst = decision.best[0], max(sizes, key=lambda name: sizes[name])
    return f"memory each: {show_bytes(sizes[best])}, {worst} {show_bytes(sizes[worst])}"


def summarize(
    name: str, standings: Mapping[str, Standing], decision: Decision, reason: str
) -> tuple[str, ...]:
    """Return a workload's line of the summary."""
    if not decision.best:
        return (name, "none", "-", "-", "none was without a fault")
    winner = ", ".join(decision.best)
    over_next = "-"
    if decision.over_next is not None:
        over_next = f"{show_times(decision.over_next)} {decision.next}"
    return (
        name,
        f"a tie: {winner}" if decision.is_tie else winner,
        over_next,
        show_over_default(standings, decision),
        reason,
    )


def show_over_default(standings: Mapping[str, Standing], decision: Decision) -> str:
    """Return how much better than the default the best one is."""
    if standings[DEFAULT].fault:
        return f"default: {standings[DEFAULT].fault}"
    if decision.best[0] == DEFAULT:
        return "is the default"
    assert decision.over_default is not None
    return show_times(decision.over_default)


def show_times(over: Ratio) -> str:
    """Return a ratio with its interval, and whether it is noisy."""
    noise = " noisy" if over.is_noisy else ""
    return f"{over.median:.2f} x [{over.low:.2f} {over.high:.2f}]{noise}"


@dataclass(frozen=True, slots=True)
class Finding:
    """A workload's line of the summary, and what failed in it that should not have."""

    line: tuple[str, ...]
    faults: tuple[str, ...]


SUMMARY_COLUMNS = ("workload", "winner", "over the next", "over the default", "why")
SUMMARY_NOTES = (
    "judged by answers a second; of idle connections by the memory of one; failures exclude",
    "a tie: the rounds do not tell them apart, the first has the best median",
)


# -- the program


def keep_ratios(
    report: Report, workload: str, standings: Mapping[str, Standing], base: str
) -> None:
    """Keep every mode's ratio to a base, where both have figures."""
    figures = {name: one.figures for name, one in standings.items() if one.figures}
    for name in figures:
        if name != base and base in figures:
            starts = standings[base].starts
            each = ratio(figures[name], figures[base], starts=starts)
            report.add_ratio(f"{workload}: {name} / {base}", each)


def run_workload(report: Report, workload: Workload, effort: Effort) -> Finding:
    """Measure and show one workload."""
    outcomes = measure(workload, effort)
    report.add(tabulate(workload, outcomes), draw(workload, outcomes))
    standings = {name: one.standing for name, one in outcomes.items()}
    keep_ratios(report, workload.name, standings, DEFAULT)
    decision = decide(standings, DEFAULT)
    reason = why(workload, outcomes, decision) if decision.best else ""
    line = summarize(workload.name, standings, decision, reason)
    return Finding(line, tuple(one.fault for one in outcomes.values() if one.fault))


def run_idle(report: Report, effort: Effort) -> Finding:
    """Measure and show idle connections."""
    count = how_many_to_hold(effort.idle, available_memory())
    if count < effort.idle:
        wanted = f"{show_count(effort.idle)} idle connections"
        report.miss(wanted, f"descriptors or memory allow {show_count(count)} here")
    found = measure_idle(effort, count)
    report.add(tabulate_idle(count, found), draw_idle(found))
    standings = {name: held.standing for name, held in found.items()}
    keep_ratios(report, IDLE, standings, list(found)[-1])
    decision = decide(standings, DEFAULT)
    reason = why_idle(found, decision) if decision.best else ""
    faults = {held.outcome.fault for held in found.values()} - {"", NOT_SERVED}
    return Finding(summarize(IDLE, standings, decision, reason), tuple(faults))


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="under a minute, and less sure")
    parser.add_argument(
        "--only",
        nargs="+",
        default=NAMES,
        metavar="NAME",
        choices=NAMES,
        help=f"only these workloads: {', '.join(NAMES)}",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures here too")
    return parser.parse_args()


def main() -> int:
    """Measure, print, and return the exit status."""
    options = parse()
    file = options.json.resolve() if options.json else None
    os.chdir(CHECKOUT)  # where load processes find what they import
    effort = QUICK if options.quick else FULL
    text = " ".join((__doc__ or "").split("\n\n")[2].split())
    report = Report("workloads", "What each mode is for", text)
    report.begin()
    try:
        found = [
            run_idle(report, effort)
            if name == IDLE
            else run_workload(report, WORKLOADS[name], effort)
            for name in NAMES
            if name in options.only
        ]
    except (LoadFailed, ServerFailed, OSError) as failure:
        print(f"failed: {failure}", file=sys.stderr)
        return 1
    lines = tuple(one.line for one in found)
    report.add(Table("Which mode for what", SUMMARY_COLUMNS, lines, SUMMARY_NOTES))
    if file:
        report.write(file)
    return 1 if any(one.faults for one in found) else 0


if __name__ == "__main__":
    sys.exit(main())
