"""Give every variant its turn in every round, and measure what it does in it.

All servers stand from the first round to the last; one at a time has load, the others sleep. What
slows a round down slows all of its turns, so variants are compared round by round.
"""

import contextlib
import itertools
import math
import pickle
import random
import resource
import select
import subprocess
import sys
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from statistics import median
from time import monotonic
from typing import Any, Self

from forkserve.bench.conversation import Converse, ScriptError
from forkserve.bench.figures import percentile
from forkserve.bench.load import OUTCOMES, Order, Result
from forkserve.bench.server import Server, ServerFailed, not_outliving_us
from forkserve.bench.usage import cpu_seconds, machine_cpu_seconds, memory, run_delay, tree

RESERVE = 50  # descriptors of a client process beside its connections
LAST_WORDS = 1.0  # seconds that a client process has to leave
PATIENCE = 20.0  # seconds more than an order's time and patience until a client process is given up

# 127.0.0.0/8 is all loopback: each run connects from an address of its own, so that ports that
# still are in TIME_WAIT from another run are not in the way.
_sources = (f"127.{a}.{b}.9" for a, b in itertools.product(range(2, 250), range(1, 250)))


class LoadFailed(Exception):
    """The load could not be made, or what came back does not count."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What one variant did under one load in one round; times in seconds, memory in bytes."""

    ok: int
    failures: dict[str, int]  # how many by what became of them
    seconds: float
    cpu: float  # of the server's whole tree
    p50: float
    p99: float
    p999: float
    generator: float  # how much of its time the busiest client process was on a CPU, 0 to 1
    generator_cpu: float  # of all client processes
    elsewhere: float  # how many CPUs were busy with neither server nor clients
    memory: int = 0  # PSS, under load
    complaint: str = ""
    slowest: float = math.nan
    delay: float = 0.0  # seconds that server and clients waited for a CPU, as far as it is known
    tally: dict[int, int] = field(default_factory=dict)  # what the conversation has counted

    @property
    def throughput(self) -> float:
        """Good requests a second."""
        return self.ok / self.seconds if self.seconds else 0.0

    @property
    def cpu_each(self) -> float:
        """The server's CPU seconds for one good request."""
        return self.cpu / self.ok if self.ok else float("nan")

    @property
    def failed(self) -> int:
        """How many requests were not answered as they should."""
        return sum(self.failures.values())

    def as_json(self) -> dict[str, Any]:
        """Return the turn as plain values."""
        return {**asdict(self), "throughput": self.throughput, "cpu_each": self.cpu_each}


@dataclass(slots=True)
class Generator:
    """Makes load with client processes of their own.

    They end with each order; those of a context manager stay for the next one until its end, which
    saves a tenth of a second an order.
    """

    converse: Converse
    clients: int = 1
    cpus: Sequence[int] | None = None
    running: list["subprocess.Popen[bytes]"] = field(default_factory=list)
    _they_stay: bool = False

    def __enter__(self) -> Self:
        self._they_stay = True
        return self

    def __exit__(self, *_: object) -> None:
        self._they_stay = False
        self._end()

    def run(self, order: Order, *, during: Callable[[], None] | None = None) -> list[Result]:
        """Let every client process do its share of an order; return what each has to tell.

        `during` is called once while they run. Blocks until they are done; raises LoadFailed where
        one of them ends without a result, ScriptError where a script of the user's does.
        """
        are_well = False
        try:
            shares = self._share(order)
            while len(self.running) < len(shares):
                self._start()
            working = self.running[: len(shares)]
            for process, share in zip(working, shares, strict=True):
                self._give(process, share)
            if during is not None:
                self._wait_for_the_middle(order.seconds)
                during()
            limit = order.seconds + 2 * order.patience + PATIENCE
            results = [_collect(process, limit) for process in working]
            are_well = True
        finally:
            if not (are_well and self._they_stay):
                self._end(LAST_WORDS if are_well else 0)
        for result in results:
            if result.script_error:
                raise ScriptError(result.script_error)
        return results

    def _share(self, order: Order) -> list[Order]:
        clients = min(self.clients, order.concurrency, order.connections or self.clients)
        return [
            replace(
                order,
                concurrency=_part(order.concurrency, clients, n),
                connections=_part(order.connections, clients, n),
                rate=order.rate / clients,
                source=next(_sources) if "://127." in order.address else "",
            )
            for n in range(clients)
        ]

    def _start(self) -> None:
        command = [sys.executable, "-m", "forkserve.bench.client"]
        if self.cpus is not None:
            command = ["taskset", "-c", ",".join(map(str, self.cpus)), *command]
        process = subprocess.Popen(
            not_outliving_us(command, "KILL"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            process_group=0,
        )
        self.running.append(process)

    def _give(self, process: "subprocess.Popen[bytes]", order: Order) -> None:
        assert process.stdin
        # where it has ended already, _collect() tells how
        with contextlib.suppress(ProcessLookupError, BrokenPipeError):
            _allow_descriptors(process.pid, order.concurrency + RESERVE)
            process.stdin.write(pickle.dumps((order, self.converse)))
            process.stdin.flush()

    def _wait_for_the_middle(self, seconds: float) -> None:
        """Wait so long that all is under way, or until the first has something to tell."""
        poll = select.poll()  # select would not take what comes after so many idle connections
        poll.register(self.running[0].stdout, select.POLLIN)  # type: ignore[arg-type]
        poll.poll(seconds * 700)

    def _end(self, patience: float = LAST_WORDS) -> None:
        for process in self.running:
            assert process.stdin
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
        for process in self.running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(patience)
            process.kill()
            process.wait()
            assert process.stdout
            process.stdout.close()
        self.running = []


def _collect(process: "subprocess.Popen[bytes]", limit: float) -> Result:
    """Wait for the result of a client process's order."""
    assert process.stdout
    poll = select.poll()
    poll.register(process.stdout, select.POLLIN)
    if not poll.poll(limit * 1000):
        raise LoadFailed("a client process does not come to its end")
    try:
        result: Result = pickle.load(process.stdout)
    except (EOFError, pickle.UnpicklingError):
        status = process.wait(PATIENCE)
        how = f"with status {status}" if status else "without a result"
        raise LoadFailed(f"a client process ended {how}") from None
    return result


def _allow_descriptors(pid: int, count: int) -> None:
    """Let a process open so many, if it may; those that it lacks it complains of itself."""
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    if soft < count:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (min(count, hard), hard))


def _part(whole: int, parts: int, number: int) -> int:
    """Return a part's share of a whole number, so that all parts make the whole."""
    return whole // parts + (number < whole % parts)


def take_turn(
    server: Server, generator: Generator, order: Order, *, is_weighed: bool = True
) -> Turn:
    """Put load on one server and measure it; raises ServerFailed if that ends it.

    Its memory too, unless told not to: that takes a millisecond a process, on some CPU.
    """
    held, members = [0], len(tree(server.pid))

    def weigh() -> None:
        held[0] = memory(server.pid)

    cpu, machine, begun = cpu_seconds(server.pid), machine_cpu_seconds(), monotonic()
    delayed = run_delay(server.pid)
    results = generator.run(order, during=weigh if is_weighed else None)
    server.settle(members)
    spent, took = cpu_seconds(server.pid) - cpu, monotonic() - begun
    by_clients = sum(result.cpu for result in results)
    elsewhere = (machine_cpu_seconds() - machine - spent - by_clients) / took
    delay = max(0.0, run_delay(server.pid) - delayed)
    return summarize(results, spent, delay, max(0.0, elsewhere), held[0])


def summarize(
    results: Sequence[Result], cpu: float, delay: float, elsewhere: float, held: int
) -> Turn:
    """Return one turn's figures from what each client process has to tell."""
    latencies = array("d")
    for result in results:
        latencies.extend(result.latencies)
    ordered = sorted(latencies)
    totals = {name: sum(result.outcomes[name] for result in results) for name in OUTCOMES}
    ok = totals.pop("ok")
    return Turn(
        ok=ok,
        failures={name: count for name, count in totals.items() if count},
        seconds=max(result.seconds for result in results),
        cpu=cpu,
        p50=percentile(ordered, 0.5),
        p99=percentile(ordered, 0.99),
        p999=percentile(ordered, 0.999),
        slowest=percentile(ordered, 1.0),
        generator=max(result.cpu / result.seconds for result in results),
        generator_cpu=sum(result.cpu for result in results),
        delay=delay + sum(result.delay for result in results),
        elsewhere=elsewhere,
        memory=held,
        tally=dict(sum((Counter(result.tally) for result in results), Counter())),
        complaint=next((result.complaint for result in results if result.complaint), ""),
    )


def shuffled(names: Iterable[str], number: int) -> list[str]:
    """Return the order of a round."""
    listed = list(names)
    return random.Random(number).sample(listed, len(listed))


def middle(turns: Sequence[Turn], figure: Callable[[Turn], float]) -> float:
    """Return the median of a figure over the rounds."""
    return median(figure(turn) for turn in turns)


def run_rounds(
    servers: Mapping[str, Server],
    generator: Generator,
    make_order: Callable[[Server], Order],
    rounds: int,
    *,
    warm_up: float = 0.3,
    weighs_each: bool = True,
    on_turn: Callable[[str, Turn], None] = lambda name, turn: None,
) -> dict[str, list[Turn]]:
    """Give every server its turn in every round; return the turns by the servers' names.

    Round 0, of so many seconds a turn, warms up and is not returned (0: there is none). Memory is
    measured in each turn, or in round 0 for all of them. Blocks; what a turn raises comes with the
    variant's name in front.
    """
    weights = dict.fromkeys(servers, 0)
    found: dict[str, list[Turn]] = {name: [] for name in servers}
    for number in range(0 if warm_up else 1, rounds + 1):
        for name in shuffled(servers, number):
            server = servers[name]
            order = make_order(server)
            if not number:
                order = replace(order, seconds=min(order.seconds, warm_up))
            try:
                turn = take_turn(server, generator, order, is_weighed=weighs_each or not number)
            except (LoadFailed, ServerFailed) as failure:
                failure.args = (f"{name}: {failure}",)
                raise
            if not number:
                weights[name] = turn.memory
                continue
            if not weighs_each:
                turn = replace(turn, memory=weights[name])
            found[name].append(turn)
            on_turn(name, turn)
    return found


def require_good(name: str, turn: Turn) -> None:
    """Raise LoadFailed for a turn in which anything went wrong: then no figure counts."""
    if turn.failures or not turn.ok:
        lost = describe_failures(turn.failures) or "nothing"
        complaint = f" ({turn.complaint})" if turn.complaint else ""
        raise LoadFailed(f"{name}: {lost} beside {turn.ok} good answers{complaint}")


def describe_failures(failures: Mapping[str, int]) -> str:
    """Return in one line how many there were of each kind."""
    return ", ".join(f"{count} {what}" for what, count in failures.items())
