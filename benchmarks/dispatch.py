"""The CPU that one short connection or datagram costs, and how long its answer takes.

    python3 benchmarks/dispatch.py [--quick] [--only NAME...] [--json FILE]

One connection is connect, 64 bytes there, 64 bytes back, close; one datagram is 64 bytes there and
back. Ours stands beside the peers'. The server has one core, the load
another; in every round every variant has its turn, in a new order; what is compared is the CPU of
the server's whole process tree for one connection (cpu.py), pair by pair. The exit status is 0
when every target holds, 3 when one falls short, 1 when a connection failed: then no figure counts.
"""

import argparse
import importlib.util
import json
import os
import random
import statistics
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.generator import Failed, Generator
from benchmarks.servers import Server, forkserve, peer
from forkserve.bench.figures import Verdict, ratio
from forkserve.bench.usage import cpu_seconds

SETTLE = 0.1
HANDLERS = {"peer": "UntilEnd", "server": "Once", "datagram": "OneDatagram"}
SHAPES = {
    "peer": "one connection, us: {} at a time, the peer closes first",
    "server": "one connection, us: {} at a time, the server closes first",
    "datagram": "one datagram, us: {} at a time",
}


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
    Target("iterative", "uvloop", 1.0),
    Target("prefork", "uvloop", 1.0),
    Target("prefork-4", "uvloop", 1.0),
    Target("iterative-last", "uvloop", 1.0, shapes=("server",)),
    Target("thread", "uvloop", 1.0, at_a_time=BOTH),
    Target("iterative", "UDPServer", 0.75, shapes=("datagram",)),
    Target("prefork", "UDPServer", 0.75, shapes=("datagram",)),
    Target("prefork-4", "UDPServer", 0.75, shapes=("datagram",)),
    Target("loop", "UDPServer", None, shapes=("datagram",)),
    Target("thread", "ThreadingUDPServer", 0.32, shapes=("datagram",)),
    Target("process", "ForkingUDPServer", 0.80, shapes=("datagram",)),
)
LATENCY_RATE = 50.0
LATENCY_TARGETS = (
    Target("process-spare", "ForkingTCPServer", 0.6, shapes=("peer",)),
    Target("process-spare-1000", "ForkingTCPServer", 0.3, shapes=("peer",)),
)


def commands(shape: str) -> dict[str, list[str]]:
    """Return how each variant is started."""
    handler = HANDLERS[shape]
    return {
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
    """How many rounds there are, and how long each variant's turn is."""

    rounds: int
    seconds: float
    latency_rounds: int
    latency_seconds: float


FULL = Effort(rounds=15, seconds=1.0, latency_rounds=7, latency_seconds=8.0)
QUICK = Effort(rounds=3, seconds=0.2, latency_rounds=2, latency_seconds=1.5)


@dataclass(frozen=True, slots=True)
class Group:
    """Variants that are measured together, and the targets that compare them."""

    title: str
    shape: str
    at_a_time: int
    targets: tuple[Target, ...]

    def names(self) -> list[str]:
        """Return the variants in a fixed order, each once."""
        return list(dict.fromkeys(name for t in self.targets for name in (t.against, t.variant)))

    def judge(self, figures: dict[str, list[float]]) -> list[Verdict]:
        """Return what became of every target."""
        verdicts = []
        for target in self.targets:
            found = ratio(figures[target.variant], figures[target.against])
            what = f"{target.variant} / {target.against}"
            verdicts.append(Verdict(what, found.median, target.at_most, str(found)))
        return verdicts


def wanted(target: Target, only: list[str]) -> bool:
    """Tell whether a target is asked for and can be measured here."""
    has_uvloop = importlib.util.find_spec("uvloop") is not None
    return (not only or target.variant in only) and (target.against != "uvloop" or has_uvloop)


def groups(only: list[str]) -> list[Group]:
    """Return what is measured together: one shape, so many at a time."""
    found = []
    for at_a_time in BOTH:
        for shape, words in SHAPES.items():
            here = (t for t in TARGETS if shape in t.shapes and at_a_time in t.at_a_time)
            title = f"CPU of {words.format(at_a_time)}"
            found.append(Group(title, shape, at_a_time, tuple(t for t in here if wanted(t, only))))
    return [group for group in found if group.targets]


def shuffled(names: list[str], number: int) -> list[str]:
    """Return the order of a round."""
    return random.Random(number).sample(names, len(names))


class Bench:
    """Runs groups of variants and prints what it finds."""

    def __init__(self, effort: Effort, rate: float) -> None:
        cpus = sorted(os.sched_getaffinity(0))
        self.effort, self.rate = effort, rate
        self.server_cpu, self.load_cpu = cpus[0], cpus[-1]
        self.report: list[dict[str, object]] = []
        self.all_hold = True

    def cpu(self, group: Group) -> None:
        """Measure the CPU of a connection."""
        names, seconds = group.names(), self.effort.seconds
        figures: dict[str, list[float]] = {name: [] for name in names}
        with Generator({self.load_cpu}) as load, ExitStack() as stack:
            start = commands(group.shape)
            servers = {
                name: stack.enter_context(Server(start[name], {self.server_cpu})) for name in names
            }
            for number in range(self.effort.rounds + 1):
                for name in shuffled(names, number):
                    server = servers[name]
                    before = cpu_seconds(server.pid)
                    try:
                        result = load.run(
                            server.port,
                            group.shape,
                            seconds if number else min(seconds, 0.3),
                            at_a_time=group.at_a_time,
                            rate=self.rate,
                        )
                    except Failed as failure:
                        raise Failed(f"{name}, {group.title}: {failure}") from None
                    server.ends_within(SETTLE)
                    spent = cpu_seconds(server.pid) - before
                    if number:  # round 0 warms up
                        figures[name].append(spent / result["ok"] * 1e6)
        self.show(group, figures)

    def latency(self, group: Group) -> None:
        """Measure the time from the moment a connection falls due to its answer."""
        names, seconds = group.names(), self.effort.latency_seconds
        figures: dict[str, list[float]] = {name: [] for name in names}
        with Generator() as load, ExitStack() as stack:
            start = commands(group.shape)
            servers = {name: stack.enter_context(Server(start[name])) for name in names}
            for number in range(self.effort.latency_rounds):
                for name in shuffled(names, number):
                    result = load.run(
                        servers[name].port, group.shape, seconds, at_a_time=4096, rate=LATENCY_RATE
                    )
                    figures[name].append(result["p50_us"])
        self.show(group, figures)

    def show(self, group: Group, figures: dict[str, list[float]]) -> None:
        """Print a table and keep it."""
        print(f"\n{group.title}")
        medians = {name: statistics.median(found) for name, found in figures.items()}
        for name, median in sorted(medians.items(), key=lambda item: item[1]):
            print(
                f"  {name:20} {median:9.1f}   {min(figures[name]):.1f} to {max(figures[name]):.1f}"
            )
        verdicts = group.judge(figures)
        for verdict in verdicts:
            print(verdict)
        self.all_hold &= all(verdict.holds for verdict in verdicts)
        self.report.append(
            {
                "group": group.title,
                "medians": medians,
                "rounds": figures,
                "verdicts": [verdict.as_json() for verdict in verdicts],
            }
        )


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
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    bench = Bench(QUICK if options.quick else FULL, options.rate)
    with Generator() as load:
        language = load.language
    print(
        f"Python {sys.version.split()[0]}, server on CPU {bench.server_cpu}, load on CPU "
        f"{bench.load_cpu}, load generator in {language}"
    )
    if bench.server_cpu == bench.load_cpu:
        print("there is one CPU only: server and load share it")
    if importlib.util.find_spec("uvloop") is None:
        print("uvloop is missing (pip install uvloop): its lines are left out")
    try:
        for group in groups(options.only):
            bench.cpu(group)
        targets = tuple(t for t in LATENCY_TARGETS if wanted(t, options.only))
        if targets:
            title = "Connect to answer, us: 50 connections a second, open loop, all CPUs"
            bench.latency(Group(title, "peer", 0, targets))
    except Failed as failure:
        print(f"failed: {failure}", file=sys.stderr)
        return 1
    if options.json:
        options.json.write_text(json.dumps(bench.report, indent=1))
    return 0 if bench.all_hold else 3


if __name__ == "__main__":
    sys.exit(main())
