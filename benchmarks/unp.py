"""Nine ways to dispatch a connection, and four newer ones, after UNIX Network Programming.

    python3 benchmarks/unp.py [--quick] [--only DESIGN...] [--json FILE]

Chapter 30 of W. R. Stevens' book, with its load: 5 000 connections, 10 at a time, each sends a line
with a size and gets so many bytes, 4 000, and 15 children or threads stand ready. (In the book the
client closes first; here the server does, so that the end is its word that the answer is whole.)
Every server has them in turns of 250, one after another, so that what is compared is close in time;
and all of it five times, as no two starts of a server are alike.
An answer begins with the id of the thread that gives it: every byte is checked and connections are
counted by who served them.

How to read it. *Process control* is what a design costs beyond serving: the CPU of its whole
process tree less that of the iterative server of the same family, in the same round. There are two
families: minimal loops (unp_designs.py, one for each of the book's designs, so that they can be
compared with one another) and forkserve, which does more for every connection, whatever the mode.
*Fairness* is Jain's index of the connections for each child: 1 where all have as many, 1/15 where
one child of 15 has them all.

For the book's table the server has one CPU, as the book's machine had, and the load another: no
child waits for a CPU that the clients have. Shares are much the same with both CPUs for all, but
for the passed descriptor, whose index was 0.2 and is then 0.6. More children than needed do harm
where they run at the same time, and find that another was quicker (300 in a level-triggered epoll:
314 us a connection on one CPU, 878 us on two), so for the second table all CPUs are everybody's.
"""

import argparse
import itertools
import math
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.report import Report
from benchmarks.servers import Server
from benchmarks.unp_client import Ask
from forkserve.bench.chart import Chart
from forkserve.bench.figures import Ratio, ratio
from forkserve.bench.load import Order
from forkserve.bench.rounds import Generator, LoadFailed, Turn, require_good, run_rounds
from forkserve.bench.server import ServerFailed, forkserve_command
from forkserve.bench.table import Table, show_count, show_time

CROWD = "crowd"  # what --only calls the second table
BOOK = "W. R. Stevens, UNIX Network Programming, volume 1, chapter 30"
SIZE = 4000
CHILDREN = 15
AT_A_TIME = 10
BOOK_CONNECTIONS = 5000
TIME_LIMIT = 120.0  # seconds for one turn; one that needs more does not count


@dataclass(frozen=True, slots=True)
class Design:
    """One way to dispatch, and who runs it."""

    key: str
    name: str
    text: str  # what it does, in one sentence
    command: tuple[str, ...]
    number: str = "-"  # the book's
    children: int = 0  # processes or threads that stand ready; 0: each client gets its own

    @property
    def is_ours(self) -> bool:
        """Whether forkserve runs it."""
        return "forkserve" in self.command

    @property
    def runner(self) -> str:
        """Who runs it."""
        return "forkserve" if self.is_ours else "minimal"

    @property
    def baseline(self) -> str:
        """The key of the iterative server of its family."""
        return "forkserve-iterative" if self.is_ours else "iterative"

    @property
    def title(self) -> str:
        """Return the name for where the runner is not in a column of its own."""
        return f"{self.name} ({self.runner})"


def minimal(
    design: str, name: str, text: str, number: str = "-", children: int = CHILDREN
) -> Design:
    """Return a design that one of our minimal loops runs."""
    command = (sys.executable, "benchmarks/unp_designs.py", design, str(children))
    return Design(design, name, text, command, number, children)


def ours(key: str, name: str, text: str, *options: str, number: str = "-", of: int = 0) -> Design:
    """Return a design that forkserve runs."""
    address = ("-b", "tcp://127.0.0.1:0")
    command = forkserve_command("benchmarks/unp_designs.py:serve", *options, *address)
    return Design(f"forkserve-{key}", name, text, tuple(command), number, of)


DESIGNS = (
    minimal("iterative", "iterative", "serves one client after another: the baseline", "0", 0),
    minimal("fork_each", "fork per client", "forks a child for each client", "1", 0),
    minimal(
        "prefork",
        "prefork, accept",
        "lets 15 children wait in accept, without a lock: on Linux one is woken, no herd",
        "2",
    ),
    minimal(
        "prefork_file_lock",
        "prefork, file lock",
        "lets the child that has locked a file wait in accept, for two calls of fcntl(2)",
        "3",
    ),
    minimal(
        "prefork_semaphore",
        "prefork, shared lock",
        "lets the child wait in accept that has a lock in shared memory, multiprocessing.Lock:"
        " a POSIX semaphore where the book has a pthread mutex, both on futex(2)",
        "4",
    ),
    minimal(
        "prefork_passing",
        "prefork, descriptor passed",
        "accepts in the parent and sends the descriptor to the first child that is free",
        "5",
    ),
    minimal("thread_each", "thread per client", "starts a thread for each client", "6", 0),
    minimal(
        "prethread_lock",
        "prethreaded, lock",
        "lets the one of 15 threads wait in accept that has the lock",
        "7",
    ),
    minimal(
        "prethread_main",
        "prethreaded, main accepts",
        "accepts in the main thread and hands over to one of 15 through a queue",
        "8",
    ),
    minimal(
        "epoll_renewed",
        "prefork, EPOLLEXCLUSIVE",
        "wakes one child of 15, who goes to the end of the line: the registration is renewed",
    ),
    minimal(
        "reuseport",
        "prefork, SO_REUSEPORT",
        "has a queue for each of 15 children, among which the kernel deals by a hash",
    ),
    ours(
        "iterative",
        "iterative",
        "serves one client after another, with all that forkserve does in any mode: the baseline",
        "iterative",
        number="0",
    ),
    ours("process", "fork per client", "forks a child for each client", "process", number="1"),
    ours(
        "thread", "thread per client", "uses a thread again that has finished", "thread", number="6"
    ),
    ours(
        "prefork",
        "prefork, EPOLLEXCLUSIVE",
        "does the same, and a child accepts until the queue is empty",
        "prefork",
        "-w",
        str(CHILDREN),
        of=CHILDREN,
    ),
    ours(
        "prefork-threads",
        "prefork x threads, 3 x 5",
        "has 3 workers of 5 threads, which count as 15 children here",
        *("prefork", "-w", "3", "--threads", "5"),
        of=CHILDREN,
    ),
    ours(
        "spare",
        "fork ahead",
        "has 15 spare processes, each for one client: the fork is paid, but not waited for",
        *("process", "--spare", str(CHILDREN)),
    ),
)
BOOK_ORDER = (  # by process control, from the least
    "iterative",
    "prethread_lock",
    "prethread_main",
    "thread_each",
    "prefork",
    "prefork_semaphore",
    "prefork_file_lock",
    "prefork_passing",
    "fork_each",
)
WHY_DEARER = {  # than a design that costs more in the book
    "prethread_lock": "who is woken by the lock has to wait for Python's interpreter lock too, and"
    " gives it up at each call that may block; the book's threads are C",
    "prethread_main": "a connection passes through two threads, and each of them needs Python's"
    " interpreter lock to go on; the book's threads are C",
    "thread_each": "a thread of Python is made by Python code, who makes it waits until it has"
    " begun, and all share the interpreter lock; the book's threads are C",
    "prefork": "each connection that arrives wakes one more child, though one that runs would soon"
    " have taken it; behind a lock one child waits, and often finds the next one there",
    "prefork_semaphore": "a child gives it up as soon as it has accepted, and who waits for it has"
    " to be woken by futex(2) for each connection",
    "prefork_file_lock": "it takes two system calls a connection, and the kernel keeps a list of"
    " who waits",
}
CROWDS = {
    "prefork": "wait in accept",
    "epoll_herd": "wait in a level-triggered epoll",
    "epoll_exclusive": "wait with EPOLLEXCLUSIVE, registered once",
    "epoll_renewed": "wait with EPOLLEXCLUSIVE, renewed",
}


def crowd(sizes: Sequence[int]) -> list[Design]:
    """Return the designs in which all children wait for a connection, with more of them."""
    return [
        Design(
            f"{design}-{size}",
            f"{size} children {name}",
            "",
            (sys.executable, "benchmarks/unp_designs.py", design, str(size)),
            children=size,
        )
        for design, name in CROWDS.items()
        for size in sizes
    ]


@dataclass(frozen=True, slots=True)
class Load:
    """How often servers start, how many rounds each start has, and how many connections a turn.

    A turn is short so that what is compared is close in time: all turns of a start together are
    the load of the book.
    """

    starts: int
    rounds: int
    connections: int

    def __str__(self) -> str:
        whole = show_count(self.rounds * self.connections)
        return f"{self.starts} x {whole} connections, {AT_A_TIME} at a time"


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured; the warm-up is in seconds."""

    book: Load
    crowd: Load
    crowds: tuple[int, ...]  # so many children
    warm_up: float


FULL = Effort(Load(5, 20, 250), Load(5, 10, 150), (15, 75, 300), 0.3)
QUICK = Effort(Load(1, 3, 160), Load(1, 3, 200), (15, 75), 0.05)


class Shares(NamedTuple):
    """How connections were shared out among those who stood ready, or who served at all."""

    least: int
    middle: float
    most: int
    fairness: float


def share_out(counts: Sequence[int], children: int) -> Shares:
    """Return what there is to say of counts; who is not among them has served none."""
    every = [*counts, *[0] * (children - len(counts))]
    return Shares(min(every), median(every), max(every), fairness(every))


def fairness(counts: Sequence[int]) -> float:
    """Return Jain's index: 1 where all are equal, 1/n where one has all."""
    return sum(counts) ** 2 / (len(counts) * sum(count**2 for count in counts))


@dataclass(slots=True)
class Found:
    """What the rounds have shown of one design."""

    turns: list[Turn] = field(default_factory=list)
    shares: list[Shares] = field(default_factory=list)  # of each start

    @property
    def cpu(self) -> list[float]:
        """The CPU seconds for one connection, round by round."""
        return [turn.cpu_each for turn in self.turns]

    def against(self, baseline: "Found") -> Ratio:
        """Return the CPU for one connection against the baseline's."""
        return ratio(self.cpu, baseline.cpu, starts=len(self.shares))

    def over(self, baseline: "Found") -> float:
        """Return the process control: the CPU seconds for one connection above the baseline's."""
        return median(a - b for a, b in zip(self.cpu, baseline.cpu, strict=True))

    def middle_shares(self) -> Shares:
        """Return the medians of the starts."""
        least, middle, most, fair = zip(*self.shares, strict=True)
        return Shares(round(median(least)), median(middle), round(median(most)), median(fair))


@dataclass(frozen=True, slots=True)
class Surprise:
    """Two of the book's designs, the first less work there, and more here."""

    book_less: str
    book_more: str
    ratio: Ratio

    def __str__(self) -> str:
        less, more = name_of(self.book_less), name_of(self.book_more)
        return f"{less} costs {self.ratio} times {more}: less in the book"


def find_surprises(cpu: Mapping[str, Sequence[float]], starts: int = 1) -> list[Surprise]:
    """Return the pairs whose order is for sure not the book's.

    Compares all CPU, which has the same order as what is above the common baseline.
    """
    known = [key for key in BOOK_ORDER if key in cpu]
    pairs = [
        Surprise(less, more, ratio(cpu[less], cpu[more], starts=starts))
        for less, more in itertools.combinations(known, 2)
    ]
    return [pair for pair in pairs if pair.ratio.low > 1]


def explain(surprises: Sequence[Surprise]) -> list[str]:
    """Return why, once for each design that costs more than its place in the book says."""
    dearer = dict.fromkeys(pair.book_less for pair in surprises)
    return [f"{name_of(key)}: {WHY_DEARER[key]}." for key in dearer if key in WHY_DEARER]


def name_of(key: str) -> str:
    """Return the name of one of the book's designs."""
    return next(design.name for design in DESIGNS if design.key == key)


@dataclass(frozen=True, slots=True)
class Places:
    """Which CPUs the server and the load may use; None: all."""

    server: tuple[int, ...] | None = None
    load: tuple[int, ...] | None = None

    def __str__(self) -> str:
        if self.server is None or self.load is None:
            return "all CPUs for server and load"
        if self.server == self.load:
            return "one CPU for server and load: there is no other"
        return f"server on CPU {self.server[0]}, load on CPU {self.load[0]}"


def apart() -> Places:
    """Return a CPU for the server, and another for the load where there is one."""
    cpus = sorted(os.sched_getaffinity(0))
    return Places((cpus[0],), (cpus[-1],))


def measure(
    designs: Sequence[Design], places: Places, load: Load, warm_up: float
) -> dict[str, Found]:
    """Start all designs as often as wanted, and return what the rounds show of each."""
    found = {design.key: Found() for design in designs}
    for _ in range(load.starts):
        for design, turns in zip(designs, run_start(designs, places, load, warm_up), strict=True):
            tally = sum((Counter(turn.tally) for turn in turns), Counter[int]())
            found[design.key].turns += turns
            found[design.key].shares.append(share_out(list(tally.values()), design.children))
    return found


def run_start(
    designs: Sequence[Design], places: Places, load: Load, warm_up: float
) -> list[list[Turn]]:
    """Start all designs once, and return the turns of each."""
    titles = {design.key: design.title for design in designs}
    with ExitStack() as stack, Generator(Ask(SIZE, Counter()), cpus=places.load) as generator:
        found = run_rounds(
            {
                design.key: stack.enter_context(Server(design.command, places.server))
                for design in designs
            },
            generator,
            lambda server: Order(
                server.address, AT_A_TIME, TIME_LIMIT, connections=load.connections
            ),
            load.rounds,
            warm_up=warm_up,
            weighs_each=False,
            on_turn=lambda key, turn: require_whole(titles[key], turn, load.connections),
        )
    return [found[design.key] for design in designs]


def require_whole(name: str, turn: Turn, connections: int) -> None:
    """Raise LoadFailed for a turn with failures, or with fewer connections than it should have."""
    require_good(name, turn)
    if turn.ok != connections:
        raise LoadFailed(f"{name}: {turn.ok} of {connections} connections in the time there is")


def show_row(design: Design, found: Mapping[str, Found]) -> tuple[str, ...]:
    """Return one design's row of the table."""
    here, base = found[design.key], found[design.baseline]
    over = here.over(base)
    return (
        design.name,
        design.runner,
        design.number,
        show_time(median(here.cpu)),
        show_ratio(here.against(base)),
        show_small(over),
        f"{over * BOOK_CONNECTIONS:.2f} s",
        show_time(median(turn.p50 for turn in here.turns)),
        show_time(median(turn.p99 for turn in here.turns)),
        *show_shares(design, here),
    )


def show_small(seconds: float) -> str:
    """Return a difference, which may be less than nothing."""
    return f"{seconds * 1e6:.1f} us"


def show_ratio(found: Ratio) -> str:
    """Return a ratio, with a mark where it says little."""
    return f"{found.median:.2f}{'?' if found.is_noisy else ''}"


def show_shares(design: Design, found: Found) -> tuple[str, str]:
    """Return how connections were shared, where somebody stood ready."""
    if not design.children:
        return "-", "-"
    shares = found.middle_shares()
    return f"{shares.least}/{shares.middle:g}/{shares.most}", f"{shares.fairness:.2f}"


COLUMNS = ("CPU", "x base", "process control", "5 000 of them", "p50", "p99", "a child", "fairness")
NOTES = (
    "CPU: for one connection, of all the server's processes; x base: against iterative, ? where"
    " it might differ by more than 10 % if measured again.",
    "process control: CPU less that of iterative by the same runner, in the same round; 5 000 of"
    " them: the same for the book's load.",
    "a child: least/median/most connections that one of those standing ready has served (- where"
    " each client has its own); fairness: Jain's index of that, 1 where all are equal.",
)


def tabulate(
    designs: Sequence[Design], found: Mapping[str, Found], load: Load, places: Places
) -> Table:
    """Return the book's table."""
    return Table(
        f"{load}, {SIZE} bytes each; medians of {load.starts * load.rounds} rounds; {places}",
        ("design", "run by", "book", *COLUMNS),
        tuple(show_row(design, found) for design in designs),
        (*NOTES, *(f"{design.title} {design.text}." for design in designs)),
    )


def chart(designs: Sequence[Design], found: Mapping[str, Found]) -> list[Chart]:
    """Return process control and fairness as bars."""
    charts = []
    dispatching = [design for design in designs if design.key != design.baseline]
    if dispatching:
        over = [found[design.key].over(found[design.baseline]) for design in dispatching]
        charts.append(
            Chart(
                "Process control for one connection",
                "",
                "CPU, us",
                tuple(design.title for design in dispatching),
                {"process control": tuple(v * 1e6 if v > 0 else math.nan for v in over)},
                "bars",
                is_logarithmic=True,
            )
        )
    ready = [design for design in designs if design.children]
    if ready:
        fair = tuple(found[design.key].middle_shares().fairness for design in ready)
        names = tuple(design.title for design in ready)
        charts.append(
            Chart(
                f"How evenly {CHILDREN} children are used",
                "",
                "Jain's index",
                names,
                {"fairness": fair},
                "bars",
            )
        )
    return charts


def compare(found: Mapping[str, Found]) -> Table:
    """Return the book's order beside ours, and what differs for sure."""
    known = [key for key in BOOK_ORDER if key in found]
    base = found["iterative"]
    order = sorted(known, key=lambda key: found[key].over(base))
    surprises = find_surprises({key: found[key].cpu for key in known}, len(base.shares))
    rows = (
        (name_of(key), str(known.index(key) + 1), str(place), show_small(found[key].over(base)))
        for place, key in enumerate(order, 1)
    )
    verdict = (
        f"{len(surprises)} of {math.comb(len(known), 2)} pairs have another order than in the book"
        " (ratio of all CPU and its interval, above 1):"
    )
    return Table(
        "The book's designs by process control, all minimal loops",
        ("design", "place in the book", "place here", "process control"),
        tuple(rows),
        (verdict, *map(str, surprises), *explain(surprises)),
    )


def tabulate_crowds(designs: Sequence[Design], found: Mapping[str, Found], load: Load) -> Table:
    """Return what more children than needed cost."""
    base = found["iterative"]
    rows = (
        (
            design.name,
            show_time(median(found[design.key].cpu)),
            show_ratio(found[design.key].against(base)),
            show_small(found[design.key].over(base)),
            show_time(median(turn.p99 for turn in found[design.key].turns)),
            *show_shares(design, found[design.key]),
        )
        for design in designs
    )
    return Table(
        f"More children than needed: {load}; {Places()}",
        ("design", "CPU", "x base", "process control", "p99", "a child", "fairness"),
        tuple(rows),
        (
            "All are minimal loops. Level-triggered, every child is woken for a connection that one"
            " can have; accept and EPOLLEXCLUSIVE wake one.",
            "Registered once, EPOLLEXCLUSIVE keeps the order of those who wait, and the first get"
            " all; renewed, who was woken goes to the end of the line.",
        ),
    )


def chart_crowds(found: Mapping[str, Found], sizes: Sequence[int]) -> list[Chart]:
    """Return process control and fairness by how many children there are."""
    base = found["iterative"]
    points = tuple(map(str, sizes))

    def series(figure: Callable[[Found], float]) -> dict[str, tuple[float, ...]]:
        return {
            name: tuple(figure(found[f"{key}-{size}"]) for size in sizes)
            for key, name in CROWDS.items()
        }

    control = series(lambda here: here.over(base) * 1e6)
    fair = series(lambda here: here.middle_shares().fairness)
    return [
        Chart("Process control by children", "children", "CPU, us", points, control, "bars"),
        Chart("Fairness by children", "children", "Jain's index", points, fair, "bars"),
    ]


def add_ratios(report: Report, designs: Sequence[Design], found: Mapping[str, Found]) -> None:
    """Keep what two runs must agree on: the CPU of each design against its baseline's."""
    for design in designs:
        if design.key != design.baseline:
            name = f"CPU, {design.title} / iterative ({design.runner})"
            report.add_ratio(name, found[design.key].against(found[design.baseline]))


def run_designs(report: Report, effort: Effort, only: Sequence[str]) -> None:
    """Measure the designs, the book's and today's."""
    chosen = [design for design in DESIGNS if not only or design.key in only]
    needed = {design.baseline for design in chosen} | {design.key for design in chosen}
    needed.add("iterative")
    designs = [design for design in DESIGNS if design.key in needed]
    places = apart()
    found = measure(designs, places, effort.book, effort.warm_up)
    add_ratios(report, designs, found)
    report.add(tabulate(designs, found, effort.book, places), *chart(designs, found))
    report.add(compare(found))


def run_crowds(report: Report, effort: Effort) -> None:
    """Measure what more children than needed cost."""
    crowds = crowd(effort.crowds)
    found = measure([DESIGNS[0], *crowds], Places(), effort.crowd, effort.warm_up)
    add_ratios(report, crowds, found)
    report.add(tabulate_crowds(crowds, found, effort.crowd), *chart_crowds(found, effort.crowds))


def parse() -> argparse.Namespace:
    """Read the command line."""
    names = [*(design.key for design in DESIGNS), CROWD]
    width = max(map(len, names))
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="designs:\n"
        + "\n".join(f"  {design.key:{width}}  {design.text}" for design in DESIGNS)
        + f"\n  {CROWD:{width}}  more children than needed wait for a connection",
    )
    parser.add_argument("--quick", action="store_true", help="half a minute, and less sure")
    parser.add_argument(
        "--only",
        nargs="+",
        default=[],
        metavar="DESIGN",
        choices=names,
        help="these and what they are compared with",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures here too")
    return parser.parse_args()


def main() -> int:
    """Measure, print, and return the exit status."""
    options = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by TERM"))  # and so are the servers
    effort = QUICK if options.quick else FULL
    report = Report("unp", f"Designs after {BOOK}", (__doc__ or "").partition("\n\n    ")[2])
    report.begin()
    only = [name for name in options.only if name != CROWD]
    try:
        if only or not options.only:
            run_designs(report, effort, only)
        if CROWD in options.only or not options.only:
            run_crowds(report, effort)
    except (LoadFailed, ServerFailed) as failure:
        print(f"failed: {failure}", file=sys.stderr)
        return 1
    if options.json:
        report.write(options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
