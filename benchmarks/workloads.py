"""What each mode is for: seven workloads, each served in every mode.

    python3 benchmarks/workloads.py [--quick] [--only NAME...] [--json FILE]

Handlers and clients are in workload_handlers.py, decisions in workload_results.py, what is shown in
workload_tables.py. Server and load share all CPUs, as on a machine of a user's; 32 clients come one
after another, each as soon as one has ended, unless a table says otherwise. In every round each
mode has its turn, in a new order; figures are medians, ratios are taken round by round against
prefork, the default. A mode in whose turns anything failed has no figure. The exit status is 0, or
1 when something failed that should not.
"""

import argparse
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import workload_handlers as sides
from benchmarks.report import Report
from benchmarks.servers import CHECKOUT, Server
from benchmarks.workload_results import (
    BESIDE,
    CPUS,
    DEFAULT,
    NOT_SERVED,
    Held,
    Outcome,
    Standing,
    Workload,
    count_deaths,
    decide,
    places,
)
from benchmarks.workload_tables import (
    SUMMARY_COLUMNS,
    SUMMARY_NOTES,
    draw,
    draw_idle,
    summarize,
    tabulate,
    tabulate_idle,
    why,
    why_idle,
)
from forkserve.bench.conversation import Ending, Exchange
from forkserve.bench.figures import ratio
from forkserve.bench.idle import RESERVE, holding, raise_limit
from forkserve.bench.load import Order, Result
from forkserve.bench.rounds import (
    Generator,
    LoadFailed,
    describe_failures,
    run_rounds,
    shuffled,
    take_turn,
)
from forkserve.bench.server import SETTLE, ServerFailed, forkserve_command
from forkserve.bench.table import Table, show_bytes, show_count, show_time
from forkserve.bench.usage import available_memory, memory, tree

CONCURRENCY = 32
RELEASE_TIMEOUT = BEGIN_TIMEOUT = 20.0
SLOW = 8  # slow readers at a time
THREAD_AT_MOST = 100_000  # bytes of a thread and its share of the kernel's, for what may be tried

MODES = {
    "iterative": ("iterative",),
    "thread": ("thread",),
    "process": ("process",),
    "process --spare 4": ("process", "--spare", "4", "--connections-per-child", "100"),
    "prefork": ("prefork",),
    "prefork --threads 16": ("prefork", "--threads", "16"),
}


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
                raise LoadFailed(f"{name}: slow readers: {describe_failures(lost)}")


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


# -- the program


@dataclass(frozen=True, slots=True)
class Finding:
    """A workload's line of the summary, and what failed in it that should not have."""

    line: tuple[str, ...]
    faults: tuple[str, ...]


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
