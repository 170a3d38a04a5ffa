"""The CPU that one short connection or datagram costs, and how long its answer takes.

    python3 benchmarks/dispatch.py [--quick] [--only NAME...] [--json FILE]

One connection is connect, 64 bytes there, 64 bytes back, close; one datagram is 64 bytes there and
back. Ours stands beside the peers' and beside the least there can be, a loop in C that is compiled
on the spot. The server has one core, the load another; in every round every variant has its turn,
in a new order, and the servers start five times, as no two starts are alike; what is compared is
the CPU of the server's whole process tree for one connection (forkserve/bench/usage.py), pair by
pair. The exit status is 0 when every target holds, 3 when one falls short, 1 when a connection
failed: then no figure counts.
"""

import argparse
import importlib.util
import os
import random
import statistics
import sys
import tempfile
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.generator import Failed, Generator, compile_c
from benchmarks.report import Report
from benchmarks.servers import Server, forkserve, peer
from forkserve.bench.chart import Chart
from forkserve.bench.figures import Ratio, Verdict, ratio
from forkserve.bench.server import ServerFailed
from forkserve.bench.table import Table
from forkserve.bench.usage import cpu_seconds, tree

MANY, MANY_SECONDS = 512, 0.2
HANDLERS = {"peer": "UntilEnd", "server": "Once", "datagram": "OneDatagram"}
SHAPES = {
    "peer": "one connection, us: {} at a time, the client closes first",
    "server": "one connection, us: {} at a time, the server closes first",
    "datagram": "one datagram, us: {} at a time",
}
SHORT = {"peer": "client first", "server": "server first", "datagram": "datagrams"}
TITLE = "The CPU that one short connection costs"
SUMMARY_TITLE = "All of them"
TARGETS_TITLE = "Targets"
TEXT = (
    "Server CPU (user and system, the whole process tree) for one connection of 64 bytes there and"
    " back, or one datagram. The server has one CPU, the load another; medians of paired rounds of"
    " five starts, ratios with 95 % bootstrap intervals. The rows 'loop' are hand-written loops"
    " that make the same system calls, in Python; 'C' is a blocking accept loop."
)


@dataclass(frozen=True, slots=True)
class Target:
    """At most so many times what another variant costs, where both are measured together."""

    variant: str
    against: str
    at_most: float | None
    shapes: tuple[str, ...] = ("peer", "server")
    at_a_time: tuple[int, ...] = (32,)


BOTH = (32, 512)
TARGETS = (
    Target("iterative", "loop", 1.15),
    Target("prefork", "loop", 1.15),
    Target("prefork-4", "loop-4", 1.15),
    Target("iterative", "TCPServer", 0.78),
    Target("prefork", "TCPServer", 0.78),
    Target("prefork-4", "TCPServer", 0.78),
    Target("loop", "TCPServer", None),
    Target("iterative-last", "TCPServer", 0.60, shapes=("server",)),
    Target("loop-last", "TCPServer", None, shapes=("server",)),
    Target("thread", "ThreadingTCPServer", 0.32, at_a_time=BOTH),
    Target("process", "ForkingTCPServer", 0.80),
    Target("process-100", "ForkingTCPServer", 0.08),
    Target("iterative", "C", None),
    Target("iterative", "uvloop", 1.0),
    Target("prefork", "uvloop", 1.0),
    Target("prefork-4", "uvloop", 1.0),
    Target("iterative-last", "uvloop", 1.0, shapes=("server",)),
    Target("thread", "uvloop", 1.0, at_a_time=BOTH),
    Target("iterative", "UDPServer", 0.75, shapes=("datagram",)),
    Target("prefork", "UDPServer", 0.75, shapes=("datagram",)),
    Target("prefork-4", "UDPServer", 0.75, shapes=("datagram",)),
    Target("loop", "UDPServer", None, shapes=("datagram",)),
    Target("iterative", "C", None, shapes=("datagram",)),
    Target("thread", "ThreadingUDPServer", 0.32, shapes=("datagram",)),
    Target("process", "ForkingUDPServer", 0.80, shapes=("datagram",)),
)
LATENCY_RATE = 50.0
LATENCY_TARGETS = (
    Target("process-spare", "ForkingTCPServer", 0.6, shapes=("peer",)),
    Target("process-spare-1000", "ForkingTCPServer", 0.3, shapes=("peer",)),
)


def commands(shape: str, c_loop: str | None) -> dict[str, list[str]]:
    """Return how each variant is started; the loop in C is a program that was compiled."""
    handler = HANDLERS[shape]
    return {
        "C": [c_loop or "", shape],
        "loop": peer("peers_loop", shape, "1"),
        "loop-4": peer("peers_loop", shape, "4"),
        "loop-last": peer("peers_loop", "last", "1"),
        "uvloop": peer("peers_uvloop", shape),
        "TCPServer": peer("peers_stdlib", "TCPServer", shape),
        "ThreadingTCPServer": peer("peers_stdlib", "ThreadingTCPServer", shape),
        "ForkingTCPServer": peer("peers_stdlib", "ForkingTCPServer", shape),
        "UDPServer": peer("peers_stdlib", "UDPServer", shape),
        "ThreadingUDPServer": peer("peers_stdlib", "ThreadingUDPServer", shape),
        "ForkingUDPServer": peer("peers_stdlib", "ForkingUDPServer", shape),
        "iterative": forkserve(handler, "iterative"),
        "iterative-last": forkserve("OnceLast", "iterative"),
        "prefork": forkserve(handler, "prefork", "-w", "1"),
        "prefork-4": forkserve(handler, "prefork", "-w", "4"),
        "thread": forkserve(handler, "thread"),
        "process": forkserve(handler, "process"),
        "process-100": forkserve(handler, "process", "--connections-per-child", "100"),
        "process-spare": forkserve(handler, "process", "--spare", "4"),
        "process-spare-1000": forkserve(
            handler, "process", "--spare", "4", "--connections-per-child", "1000"
        ),
    }


@dataclass(frozen=True, slots=True)
class Effort:
    """How often servers start, how many rounds each start has, how long each variant's turn is."""

    starts: int
    rounds: int
    seconds: float
    latency_rounds: int
    latency_seconds: float

    def turns(self, at_a_time: int) -> tuple[int, float]:
        """Return how many rounds there are and how long a turn is: many take longer to come up."""
        return (self.rounds, self.seconds) if at_a_time < MANY else (self.rounds // 2, MANY_SECONDS)


# Short turns, so that what is compared is close in time, and many.
FULL = Effort(starts=5, rounds=18, seconds=0.05, latency_rounds=4, latency_seconds=2.0)
QUICK = Effort(starts=1, rounds=8, seconds=0.05, latency_rounds=2, latency_seconds=1.5)


@dataclass(frozen=True, slots=True)
class Group:
    """Variants that are measured together, and the targets that compare them."""

    title: str
    short: str
    shape: str
    at_a_time: int
    targets: tuple[Target, ...]

    def names(self) -> list[str]:
        """Return the variants in a fixed order, each once."""
        return list(dict.fromkeys(name for t in self.targets for name in (t.against, t.variant)))

    def compare(self, figures: dict[str, list[float]], starts: int) -> dict[Target, Ratio]:
        """Return the ratio that each target is about."""
        return {
            target: ratio(figures[target.variant], figures[target.against], starts=starts)
            for target in self.targets
        }


def wanted(target: Target, only: list[str], missing: Collection[str]) -> bool:
    """Tell whether a target is asked for and can be measured here."""
    return (not only or target.variant in only) and target.against not in missing


def groups(only: list[str], missing: Collection[str]) -> list[Group]:
    """Return what is measured together: one shape, so many at a time."""
    found = []
    for at_a_time in BOTH:
        for shape, words in SHAPES.items():
            here = (t for t in TARGETS if shape in t.shapes and at_a_time in t.at_a_time)
            title = f"CPU of {words.format(at_a_time)}"
            short = f"{SHORT[shape]}, {at_a_time} at a time"
            found.append(
                Group(
                    title,
                    short,
                    shape,
                    at_a_time,
                    tuple(t for t in here if wanted(t, only, missing)),
                )
            )
    return [group for group in found if group.targets]


def shuffled(names: list[str], number: int) -> list[str]:
    """Return the order of a round."""
    return random.Random(number).sample(names, len(names))


class Bench:
    """Runs groups of variants and reports what it finds."""

    def __init__(self, effort: Effort, rate: float, c_loop: str | None) -> None:
        cpus = sorted(os.sched_getaffinity(0))
        self.effort, self.rate, self.c_loop = effort, rate, c_loop
        self.server_cpu, self.load_cpu = cpus[0], cpus[-1]
        self.report = Report("dispatch", TITLE, TEXT, packages=("uvloop",))
        self.judged: list[tuple[Group, Verdict]] = []
        self.medians: dict[str, dict[str, float]] = {}  # by the variant, then by the group

    def cpu(self, group: Group) -> None:
        """Measure the CPU of a connection."""
        figures: dict[str, list[float]] = {name: [] for name in group.names()}
        for start in range(self.effort.starts):
            with (
                Generator({self.load_cpu}) as load,
                self.servers(group, {self.server_cpu}) as servers,
            ):
                for number in range(self.effort.turns(group.at_a_time)[0] + 1):
                    for name in shuffled(list(figures), 100 * start + number):
                        try:
                            each = self.cpu_each(load, servers[name], group)
                        except Failed as failure:
                            raise Failed(f"{name}, {group.title}: {failure}") from None
                        if number:  # round 0 warms up
                            figures[name].append(each)
        self.show(group, figures)

    def cpu_each(self, load: Generator, server: Server, group: Group) -> float:
        """Return the microseconds that each connection of a turn has cost."""
        before, members = cpu_seconds(server.pid), len(tree(server.pid))
        result = load.run(
            server.port,
            group.shape,
            self.effort.turns(group.at_a_time)[1],
            at_a_time=group.at_a_time,
            rate=self.rate,
        )
        server.settle(members)
        spent = cpu_seconds(server.pid) - before
        return spent / int(result["ok"]) * 1e6

    def latency(self, group: Group) -> None:
        """Measure the time from the moment a connection falls due to its answer."""
        seconds = self.effort.latency_seconds
        figures: dict[str, list[float]] = {name: [] for name in group.names()}
        for start in range(self.effort.starts):
            with Generator() as load, self.servers(group) as servers:
                for number in range(self.effort.latency_rounds):
                    for name in shuffled(list(figures), 100 * start + number):
                        port = servers[name].port
                        result = load.run(
                            port, group.shape, seconds, at_a_time=4096, rate=LATENCY_RATE
                        )
                        figures[name].append(result["p50_us"])
        self.show(group, figures)

    @contextmanager
    def servers(
        self, group: Group, cpus: Collection[int] | None = None
    ) -> Iterator[dict[str, Server]]:
        """Start a group's variants, and end them after the block."""
        start = commands(group.shape, self.c_loop)
        with ExitStack() as stack:
            yield {name: stack.enter_context(Server(start[name], cpus)) for name in group.names()}

    def show(self, group: Group, figures: dict[str, list[float]]) -> None:
        """Report a group's medians, and what became of its targets."""
        medians = {name: statistics.median(found) for name, found in figures.items()}
        rows = [
            (name, f"{median:.1f}", f"{min(figures[name]):.1f}", f"{max(figures[name]):.1f}")
            for name, median in sorted(medians.items(), key=lambda item: item[1])
        ]
        for name, median in medians.items():
            self.medians.setdefault(name, {})[group.short] = median
        found = group.compare(figures, self.effort.starts)
        verdicts = [
            Verdict(f"{target.variant} / {target.against}", each.median, target.at_most, str(each))
            for target, each in found.items()
        ]
        columns = ("variant", "us", "least", "most")
        notes = tuple(str(verdict).strip() for verdict in verdicts)
        bars = {"us": tuple(float(row[1]) for row in rows)}
        names = tuple(row[0] for row in rows)
        chart = Chart(group.title, "", "us", names, bars, "bars", is_logarithmic=True)
        self.report.add(Table(group.title, columns, tuple(rows), notes), chart)
        self.judged += [(group, verdict) for verdict in verdicts]
        for verdict, each in zip(verdicts, found.values(), strict=True):
            self.report.add_ratio(f"{group.title}: {verdict.what}", each)

    def conclude(self) -> None:
        """Report all medians in one table, and every target in another, met or not."""
        shapes = list(dict.fromkeys(group.short for group, _ in self.judged))
        summary = tuple(
            (name, *(f"{found[shape]:.0f}" if shape in found else "" for shape in shapes))
            for name, found in self.medians.items()
        )
        self.report.add(Table(SUMMARY_TITLE, ("variant, us", *shapes), summary))
        rows = tuple(
            (
                f"{verdict.what}, {group.short}",
                verdict.detail.strip(),
                f"{verdict.at_most:g}",
                "holds" if verdict.holds else "falls short",
            )
            for group, verdict in self.judged
            if verdict.at_most is not None
        )
        self.report.add(Table(TARGETS_TITLE, ("compared", "found", "at most", "verdict"), rows))

    def all_hold(self) -> bool:
        """Whether every target is met."""
        return all(verdict.holds for _, verdict in self.judged)


def parse() -> argparse.Namespace:
    """Read the command line."""
    names = sorted({target.variant for target in (*TARGETS, *LATENCY_TARGETS)})
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="under a minute, and less sure")
    parser.add_argument(
        "--only",
        nargs="+",
        default=[],
        metavar="NAME",
        choices=names,
        help=f"only the targets of these: {', '.join(names)}",
    )
    parser.add_argument(
        "--rate",
        type=float,
        default=0.0,
        metavar="N",
        help="at most N connections a second (default: as fast as they end)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures here too")
    return parser.parse_args()


def main() -> int:
    """Measure, print, and return the exit status."""
    options = parse()
    with Generator() as load, tempfile.TemporaryDirectory() as folder:
        bench = Bench(
            QUICK if options.quick else FULL, options.rate, compile_c("peers_loop.c", folder)
        )
        try:
            measure(bench, options, load.language)
        except (Failed, ServerFailed) as failure:
            print(f"failed: {failure}", file=sys.stderr)
            return 1
    if options.json:
        bench.report.write(options.json)
    return 0 if bench.all_hold() else 3


def measure(bench: Bench, options: argparse.Namespace, language: str) -> None:
    """Measure every group that is asked for."""
    report = bench.report
    report.begin()
    print(
        f"  server on CPU {bench.server_cpu}, load on CPU {bench.load_cpu}, load generator in"
        f" {language}"
    )
    if bench.server_cpu == bench.load_cpu:
        report.miss("a CPU for the load", "a machine with two: server and load share one")
    missing = []
    if importlib.util.find_spec("uvloop") is None:
        missing.append("uvloop")
        report.miss("uvloop", "pip install uvloop")
    if bench.c_loop is None:
        missing.append("C")
        report.miss("the loop in C", "a C compiler")
    for group in groups(options.only, missing):
        bench.cpu(group)
    targets = tuple(t for t in LATENCY_TARGETS if wanted(t, options.only, missing))
    if targets:
        title = "Connect to answer, us: 50 connections a second, open loop, all CPUs"
        bench.latency(Group(title, "50 a second, median latency", "peer", 0, targets))
    bench.conclude()


if __name__ == "__main__":
    sys.exit(main())
