"""forkserve beside what people would use instead, with the same handler everywhere.

    python3 benchmarks/peers.py [--quick] [--only PART...] [--peers WORD...] [--json FILE]

Four parts. `short`: connections of one exchange, 64 bytes there and back, in the two ways they
end. `kept`: one exchange after another on 32 kept connections. `http`: the same small answer, asked
for by wrk. `redis`: redis-benchmark against an example and against Redis. The server has one CPU
and the load another, since the first figure is the CPU of the server's whole process tree for one
connection, request or command; throughput and latency are those of 32 clients who ask as fast as
they are answered, so a server that is cheaper is also faster here. Every server has its turn in
every round, in a new order. A ratio is a server's CPU over that of one mode of forkserve, round by
round: below 1 it is cheaper than we are. A server with a single fault in a turn has no figures.
The exit status is 1 if that was one of ours.

Of socketserver's many classes four stand for all: TCPServer, ThreadingTCPServer, ForkingTCPServer,
and ThreadingUnixStreamServer over a Unix socket, beside forkserve over one. granian and
redis-server do not tell which port they took: theirs is one that was free just before.
"""

import argparse
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from types import TracebackType

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import peers_catalogue as catalogue
from benchmarks.peers_catalogue import CLIENTS, Need, Peer
from benchmarks.peers_tools import Figures, drive_http, drive_redis, from_turn, require_answer
from benchmarks.peers_wsgi import ANSWER
from benchmarks.report import Report
from forkserve.bench.chart import Chart
from forkserve.bench.conversation import Ending, Exchange
from forkserve.bench.figures import Ratio, ratio
from forkserve.bench.load import Order
from forkserve.bench.rounds import (
    Generator,
    LoadFailed,
    require_good,
    shuffled,
    take_turn,
)
from forkserve.bench.server import Server, ServerFailed
from forkserve.bench.table import Table, show_bytes, show_count, show_time

BYTES = bytes(range(64))
SATURATED = 0.9  # of its CPU: then the throughput is the load generator's
PACKAGES = ("gunicorn", "uwsgi", "waitress", "cheroot", "granian", "uvloop", "gevent", "twisted")
PARTS = ("short", "kept", "http", "redis")
COLUMNS = ("ratio", "a second", "p50", "p99", "memory")


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured; times in seconds."""

    starts: int  # of each server, as no two are alike
    rounds: int  # of each start
    seconds: float  # a turn: short, so that what is compared is close in time
    kept_seconds: float  # longer, so that coming up does not count
    wrk_seconds: float
    redis_requests: int  # of each kind
    has_warm_up: bool


FULL = Effort(
    starts=4,
    rounds=12,
    seconds=0.06,
    kept_seconds=0.2,
    wrk_seconds=0.2,
    redis_requests=1200,
    has_warm_up=True,
)
QUICK = Effort(
    starts=1,
    rounds=1,
    seconds=0.1,
    kept_seconds=0.1,
    wrk_seconds=0.4,
    redis_requests=1500,
    has_warm_up=False,
)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Servers under one load."""

    title: str
    unit: str  # of what the load is made
    baseline: str
    peers: tuple[Peer, ...]
    drive: Callable[[Server, bool], Figures]  # whether memory is measured too
    notes: tuple[str, ...] = ()
    check: Callable[[Server], None] = lambda server: None  # before the first turn


@dataclass(slots=True)
class Found:
    """The turns of each server, and why others do not count."""

    turns: dict[str, list[Figures]] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)

    def drop(self, name: str, fault: Exception) -> None:
        """Let a server have no figures any more."""
        self.turns.pop(name, None)
        self.faults.setdefault(name, " ".join(str(fault).split())[:300])


def measure(comparison: Comparison, effort: Effort, cpu: int) -> Found:
    """Start every server as often as wanted; one with a fault has no further turn."""
    found = Found({peer.name: [] for peer in comparison.peers})
    for start in range(effort.starts):
        with ExitStack() as stack:
            servers = {
                peer.name: server
                for peer in comparison.peers
                if peer.name not in found.faults
                and (server := stand(stack, peer, comparison.check, found, cpu))
            }
            run_start(comparison, effort, servers, found, start)
    return found


def run_start(
    comparison: Comparison, effort: Effort, servers: dict[str, Server], found: Found, start: int
) -> None:
    """Give every server its turn in every round; memory is measured in the warm-up, if any."""
    weights = dict.fromkeys(servers, 0)
    for number in range(0 if effort.has_warm_up else 1, effort.rounds + 1):
        for name in shuffled(servers, 100 * start + number):
            if name in found.faults:
                continue
            is_weighed = not (number and effort.has_warm_up)
            try:
                figures = comparison.drive(servers[name], is_weighed)
            except (LoadFailed, ServerFailed) as fault:
                found.drop(name, fault)
                continue
            weights[name] = figures.memory if is_weighed else weights[name]
            if number:
                found.turns[name].append(replace(figures, memory=weights[name]))


def stand(
    stack: ExitStack, peer: Peer, check: Callable[[Server], None], found: Found, cpu: int
) -> Server | None:
    """Start a server until the stack unwinds; return None if it does not start or answers wrong."""
    server = Server(
        peer.command,
        {cpu},
        folder=peer.folder,
        environment=peer.environment,
        find_ready=peer.find_ready,
    )

    def stop(
        kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            server.__exit__(kind, error, trace)
        except (ServerFailed, RuntimeError) as fault:  # or part of its CPU was not seen
            found.drop(peer.name, fault)

    try:
        server.__enter__()
        stack.push(stop)
        check(server)
    except (LoadFailed, ServerFailed) as fault:
        found.drop(peer.name, fault)
        return None
    return server


def compare(turns: dict[str, list[Figures]], baseline: str, starts: int = 1) -> dict[str, Ratio]:
    """Return each server's CPU over the baseline's."""
    if baseline not in turns:
        return {}
    base = [turn.cpu_each for turn in turns[baseline]]
    return {
        name: ratio([turn.cpu_each for turn in mine], base, starts=starts)
        for name, mine in turns.items()
        if name != baseline
    }


def tabulate(comparison: Comparison, found: Found, ratios: dict[str, Ratio]) -> Table:
    """Return the table, cheapest first, and below it what must be known of it."""
    ordered = sorted(found.turns, key=lambda name: middle(found.turns[name], cpu_each))
    shown = {name: show_ratio(each) for name, each in ratios.items()}
    shown |= {comparison.baseline: "1"}
    rows = [row_of(name, found.turns[name], shown.get(name, "-")) for name in ordered]
    rows += [(name, *"-" * (len(COLUMNS) + 1)) for name in found.faults]
    columns = ("server", f"CPU a {comparison.unit}", *COLUMNS)
    return Table(comparison.title, columns, tuple(rows), notes_of(comparison, found, ratios))


def row_of(name: str, turns: Sequence[Figures], against: str) -> tuple[str, ...]:
    """Return one server's figures."""
    return (
        name,
        show_time(middle(turns, cpu_each)),
        against,
        show_count(middle(turns, lambda turn: turn.throughput)),
        show_time(middle(turns, lambda turn: turn.p50)),
        show_time(middle(turns, lambda turn: turn.p99)),
        show_bytes(middle(turns, lambda turn: turn.memory)),
    )


def show_ratio(against: Ratio) -> str:
    """Return a ratio, with ~ where it is noisy."""
    return f"{'~' if against.is_noisy else ''}{against.median:.2f}"


def notes_of(comparison: Comparison, found: Found, ratios: dict[str, Ratio]) -> tuple[str, ...]:
    """Return who is cheaper than we are, whose throughput is not their own, and who has a fault."""
    limited = [
        name
        for name, turns in found.turns.items()
        if middle(turns, lambda turn: turn.generator) >= SATURATED
    ]
    is_hint = any(len(turns) == 1 for turns in found.turns.values())
    notes = [
        *(["Measured once: a hint, no more."] if is_hint else []),
        f"Ratios are against {comparison.baseline}; ~: measured again,"
        " it might differ by more than 10 %.",
        *losses({name: each for name, each in ratios.items() if is_theirs(name)}),
        *comparison.notes,
    ]
    if limited:
        notes.append(f"The load generator could give no more to: {'; '.join(limited)}.")
    notes += [f"Not counted: {name}: {why}" for name, why in found.faults.items()]
    return tuple(notes)


def losses(theirs: dict[str, Ratio]) -> list[str]:
    """Return which peers are cheaper than we are, for sure or as far as can be seen."""
    surely = [name for name, each in theirs.items() if each.high < 1]
    maybe = [name for name, each in theirs.items() if each.median < 1 <= each.high]
    said = [f"forkserve loses to: {'; '.join(surely) or 'nobody, for sure'}."]
    return said + ([f"It may lose to: {'; '.join(maybe)}."] if maybe else [])


def middle(turns: Sequence[Figures], figure: Callable[[Figures], float]) -> float:
    """Return the median of a figure over the rounds."""
    return median(figure(turn) for turn in turns)


def is_theirs(name: str) -> bool:
    """Tell whether a server is not ours."""
    return not name.startswith("forkserve ")


def cpu_each(turn: Figures) -> float:
    """Return the CPU seconds for one good request."""
    return turn.cpu_each


class Bench:
    """All the comparisons, one after another."""

    def __init__(
        self, report: Report, effort: Effort, cpus: Sequence[int], words: Sequence[str]
    ) -> None:
        self.report, self.effort, self.words = report, effort, words
        self.stack = ExitStack()
        self.server_cpu, self.load_cpu = cpus[0], cpus[-1]
        self.has_fault_of_ours = False

    def short(self, folder: Path) -> None:
        """Compare short connections, in the two ways they end."""
        ways = {
            "client closes first": ("peer", Ending.CLIENT),
            "server closes first": ("server", Ending.SERVER),
        }
        found = {
            words: self.run(
                Comparison(
                    f"Short connections, {words}",
                    "connection",
                    "forkserve prefork, 1 worker",
                    self.choose(
                        catalogue.short_lived(shape, folder), "forkserve prefork, 1 worker"
                    ),
                    self.ask(Exchange(BYTES, BYTES, ending), requests=1),
                    ("Over a Unix socket where the name says so, else over TCP.",),
                )
            )
            for words, (shape, ending) in ways.items()
        }
        self.chart("CPU of one short connection", "us", found, cpu_each, 1e6, is_logarithmic=True)

    def kept(self, folder: Path) -> None:
        """Compare one exchange after another on kept connections."""
        comparison = Comparison(
            f"One exchange after another on {CLIENTS} kept connections",
            "exchange",
            "forkserve thread",
            self.choose(catalogue.kept(folder), "forkserve thread"),
            self.ask(Exchange(BYTES, BYTES), requests=0),
            (
                "Those that serve one connection at a time are not asked: forkserve iterative and"
                " prefork without threads, TCPServer.",
            ),
        )
        found = {"exchange": self.run(comparison)}
        self.chart("CPU of one exchange on a kept connection", "us", found, cpu_each, 1e6)

    def http(self, folder: Path) -> None:
        """Compare HTTP servers, one answer a connection and with kept ones."""
        if not self.has(catalogue.WRK, "HTTP"):
            return
        (folder / "answer.txt").write_bytes(ANSWER)
        closing, keeping = (
            "forkserve wsgi.py, prefork, 1 worker",
            "forkserve files.py, thread, HTTP/1.1",
        )
        equal = "One worker each, the threads as named; 64 bytes of text; no line of log a request."
        found = {
            "one request a connection": self.run(
                self.over_http(
                    "HTTP, one request a connection",
                    closing,
                    self.choose(catalogue.http_closing(folder), closing),
                    (
                        equal,
                        "forkserve has no HTTP of its own: wsgi.py and files.py are the standard"
                        " library's HTTP/1.0 in Python, like wsgiref and http.server; uWSGI and"
                        " granian parse HTTP in C and in Rust.",
                    ),
                    are_kept=False,
                )
            ),
            "kept connections": self.run(
                self.over_http(
                    "HTTP on kept connections",
                    keeping,
                    self.choose(catalogue.http_keeping(folder), keeping),
                    (
                        equal,
                        "http.server sends an answer in two pieces, and without TCP_NODELAY, which"
                        " forkserve sets, the second one waits 40 ms for the client's kernel.",
                        "Not here because they close after each answer: gunicorn sync, wsgiref, and"
                        " forkserve's wsgi.py and files.py as they come (files.py with"
                        ' protocol_version = "HTTP/1.1" keeps connections).',
                        "uWSGI's router is a process more; without it, a worker that keeps a"
                        " connection serves no other (--http11-socket).",
                    ),
                    are_kept=True,
                )
            ),
        }
        self.chart("HTTP answers", "requests a second", found, lambda turn: turn.throughput)

    def redis(self, folder: Path) -> None:
        """Compare our Redis with Redis."""
        if not self.has(catalogue.REDIS_BENCHMARK, "Redis"):
            return
        count, cpu = self.effort.redis_requests, self.load_cpu
        baseline = "forkserve redis_like.py, thread"
        comparison = Comparison(
            f"redis-benchmark, {CLIENTS} clients: PING_INLINE, SET and GET",
            "command",
            baseline,
            self.choose(catalogue.redis_likes(), baseline),
            lambda server, is_weighed: drive_redis(
                server, cpu, CLIENTS, count, is_weighed=is_weighed
            ),
            (
                "Latency is that of the slowest of the three. Redis itself is the ceiling.",
                "With 4 workers there are 4 memories, and a client sees that of its worker.",
            ),
        )
        found = {"all three": self.run(comparison)}
        self.chart("CPU of one Redis command", "us", found, cpu_each, 1e6, is_logarithmic=True)

    def ask(self, exchange: Exchange, requests: int) -> Callable[[Server, bool], Figures]:
        """Return what puts our own load on a server."""
        seconds = self.effort.seconds if requests == 1 else self.effort.kept_seconds
        generator = self.stack.enter_context(Generator(exchange, cpus=[self.load_cpu]))

        def drive(server: Server, is_weighed: bool) -> Figures:
            order = Order(server.address, CLIENTS, seconds, requests=requests)
            turn = take_turn(server, generator, order, is_weighed=is_weighed)
            require_good("its turn", turn)
            return from_turn(turn)

        return drive

    def over_http(
        self,
        title: str,
        baseline: str,
        peers: tuple[Peer, ...],
        notes: tuple[str, ...],
        *,
        are_kept: bool,
    ) -> Comparison:
        """Return a comparison under wrk."""
        return Comparison(
            title,
            "request",
            baseline,
            peers,
            lambda server, is_weighed: drive_http(
                server,
                self.load_cpu,
                CLIENTS,
                self.effort.wrk_seconds,
                are_kept=are_kept,
                is_weighed=is_weighed,
            ),
            notes,
            lambda server: require_answer(server, is_kept=are_kept),
        )

    def choose(self, peers: Iterable[Peer], baseline: str) -> tuple[Peer, ...]:
        """Return those that are wanted and installed, and say which are missing."""
        wanted = [peer for peer in peers if peer.name == baseline or is_wanted(peer, self.words)]
        return tuple(peer for peer in wanted if not peer.need or self.has(peer.need, peer.name))

    def has(self, need: Need, what: str) -> bool:
        """Tell whether something is installed, and report it if not."""
        if not need.is_there():
            self.report.miss(f"{what} ({need.name})", need.remedy)
            return False
        return True

    def run(self, comparison: Comparison) -> Found:
        """Measure a comparison and show it."""
        found = measure(comparison, self.effort, self.server_cpu)
        ratios = compare(found.turns, comparison.baseline, self.effort.starts)
        for name, against in ratios.items():
            self.report.add_ratio(f"{comparison.title}: {name} / {comparison.baseline}", against)
        self.report.add(tabulate(comparison, found, ratios))
        self.has_fault_of_ours |= not all(map(is_theirs, found.faults))
        return found

    def chart(
        self,
        title: str,
        y_label: str,
        found: dict[str, Found],
        figure: Callable[[Figures], float],
        scale: float = 1.0,
        *,
        is_logarithmic: bool = False,
    ) -> None:
        """Keep bars of a figure of every server, a series for each table."""
        names = tuple(dict.fromkeys(name for each in found.values() for name in each.turns))
        series = {
            words: tuple(
                middle(each.turns[name], figure) * scale if name in each.turns else float("nan")
                for name in names
            )
            for words, each in found.items()
        }
        self.report.charts.append(
            Chart(title, "server", y_label, names, series, "bars", is_logarithmic)
        )


def is_wanted(peer: Peer, words: Iterable[str]) -> bool:
    """Tell whether a server's name has one of the words, if there are any."""
    listed = list(words)
    return not listed or any(word.lower() in peer.name.lower() for word in listed)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one short round, and less sure")
    parser.add_argument(
        "--only", nargs="+", default=PARTS, choices=PARTS, metavar="PART", help=", ".join(PARTS)
    )
    parser.add_argument(
        "--peers",
        nargs="+",
        default=[],
        metavar="WORD",
        help="only servers whose name contains one of these, and what they are compared with",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures here too")
    return parser.parse_args(arguments)


def main() -> int:
    """Measure, print, and return the exit status."""
    options = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that servers are ended
    text = " ".join((__doc__ or "").split("\n\n")[2].split())
    report = Report("peers", "forkserve beside its peers", text, PACKAGES)
    report.begin()
    bench = Bench(
        report, QUICK if options.quick else FULL, sorted(os.sched_getaffinity(0)), options.peers
    )
    with bench.stack:
        for part in PARTS:
            if part in options.only:
                with tempfile.TemporaryDirectory(prefix="peers-") as folder:
                    getattr(bench, part)(Path(folder))
    if options.json:
        report.write(options.json)
    return int(bench.has_fault_of_ours)


if __name__ == "__main__":
    sys.exit(main())
