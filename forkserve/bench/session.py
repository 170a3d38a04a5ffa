"""Serve the handler in every variant, one load after another, and keep what was found."""

import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from time import monotonic

from forkserve.bench.arguments import Plan
from forkserve.bench.conversation import (
    Converse,
    DatagramExchange,
    Exchange,
    Script,
)
from forkserve.bench.errors import BenchError, Spoiled
from forkserve.bench.idle import RESERVE, holding, raise_limit
from forkserve.bench.load import Order
from forkserve.bench.measured import Measured, Profile
from forkserve.bench.probe import find_exchange
from forkserve.bench.progress import Progress
from forkserve.bench.rounds import (
    Generator,
    LoadFailed,
    Turn,
    describe_failures,
    shuffled,
    take_turn,
)
from forkserve.bench.server import Server, ServerFailed, forkserve_command
from forkserve.bench.table import show_bytes
from forkserve.bench.usage import available_memory, memory
from forkserve.bench.variants import Variant
from forkserve.settings import Mode

ANYWHERE = "tcp://127.0.0.1:0"
MOST_PROCESSES = 1000  # of idle connections; to fork more would take longer than all else
SAMPLE = 50  # idle connections from which the memory of all of them is foreseen
WARM_UP = 0.3
LATE_WORDS = 0.5  # seconds for a server to say that a worker has died
BECOMES_STEADY = 5.0
CRASHES_AT_FIRST = 4  # while a server is asked what it answers
ERROR = re.compile(r"forkserve(?: run)?: error: ")
DEATHS = re.compile(r"\] (?:worker|connection process) \d+ (?:was killed by|exited with [1-9])")
SERVED = re.compile(r"served \d+ in all, by worker ([\d ]+);")
BY_CRASH = ("reset", "cut short", "reset while connecting")  # what a dead worker's clients see


UNSERVED = {"unanswered", "connect timeout", "refused"}


class _Overwhelmed(BenchError):
    """A variant does not hold the idle connections, or serves nobody beside them."""


class Session:
    """One run of the benchmark."""

    def __init__(self, plan: Plan, variants: Sequence[Variant]) -> None:
        self.plan = plan
        self.bind = plan.bind or ANYWHERE
        self.measured = {variant.name: Measured(variant) for variant in variants}
        self.profile: Profile | None = None
        self.is_whole = False
        self.converse: Converse
        self._standing: dict[str, Server] = {}
        self._generator: Generator

    def run(self) -> None:
        """Measure; blocks. What was found before an exception stays.

        Raises BenchError, ScriptError, LoadFailed or ServerFailed where a figure would not count,
        KeyboardInterrupt where the user does not want to wait.
        """
        with ExitStack() as stack:
            self._begin(stack)
            self._measure_alone()
            for one in self.measured.values():
                one.excluded = self._foresee_idle(one)
            self._require_able()
            steps = len(self._able()) * len(self.plan.concurrency) * self.plan.rounds
            with Progress(steps) as progress:
                for number in range(self.plan.rounds):
                    for concurrency in self.plan.concurrency:
                        for name in shuffled(self._able(), number):
                            progress.step(self._measure(name, concurrency))
            self._require_able()
            self.is_whole = True

    def _measure(self, name: str, concurrency: int) -> str:
        """Take a turn, and return in a few words what it has shown."""
        one = self.measured[name]
        what = f"{name}, {concurrency} at a time"
        try:
            turn = self._take_turn(one, concurrency)
        except _Overwhelmed as reason:
            one.excluded = str(reason)
            return f"{what}: {reason}"
        one.turns.setdefault(concurrency, []).append(turn)
        return f"{what}: {turn.throughput:.0f} a second"

    def _able(self) -> list[str]:
        return [name for name, one in self.measured.items() if not one.excluded]

    def _require_able(self) -> None:
        if not self._able():
            whys = (f"{name}: {one.excluded}" for name, one in self.measured.items())
            raise BenchError(f"no mode serves this load; {'; '.join(whys)}")

    # -- servers

    def _begin(self, stack: ExitStack) -> None:
        """Start the first server, see what it answers, and start the others if they can stand."""
        names = list(self.measured)
        raise_limit(self.plan.idle + max(self.plan.concurrency) + RESERVE)  # for servers, too
        with self._starting(names[0]) as first:
            try:
                self.converse = self._find_conversation(first)
            except BenchError as error:
                error.said = error.said or _errors_of(first)
                raise
        self._generator = Generator(self.converse, clients=self.plan.clients)
        if not self.plan.is_fixed:
            for name in names:
                self._standing[name] = stack.enter_context(self._starting(name))

    @contextmanager
    def _starting(self, name: str) -> Iterator[Server]:
        server = self._make_server(name)
        try:
            server.__enter__()
        except ServerFailed as failure:
            if self.plan.bind is not None or "is for datagrams" not in failure.said:
                raise _describe_start(failure) from None
            self.bind = "udp://127.0.0.1:0"
            server = self._make_server(name)
            try:
                server.__enter__()
            except ServerFailed as other:
                raise _describe_start(other) from None
        try:
            yield server
        except BaseException:
            self._end(server)
            raise
        server.stop()
        self._note_end(self.measured[name], server.said())

    def _end(self, server: Server) -> None:
        """End a server whose figures do not count, in order, so that no file of it is left."""
        with suppress(ServerFailed):
            if server.process.returncode is None:
                server.stop()
        server.kill()

    def _make_server(self, name: str) -> Server:
        variant = self.measured[name].variant
        most = max(1024, self.plan.idle + max(self.plan.concurrency) + SAMPLE)
        return Server(
            forkserve_command(
                self.plan.target,
                *variant.flags[1:],
                "-b",
                self.bind,
                "--max-connections",
                str(most),
                "--drain-timeout",
                "2",
                *self.plan.options,
            ),
            environment={"PYTHONPATH": _path_of_ours()},
        )

    @contextmanager
    def _serving(self, name: str) -> Iterator[Server]:
        if name in self._standing:
            yield self._standing[name]
        else:
            with self._starting(name) as server:
                yield server

    def _note_end(self, one: Measured, said: str) -> None:
        """Take from a server's last words what its workers have served."""
        for found in SERVED.findall(said):
            counts = [int(count) for count in found.split()]
            known = [*one.served_by, *[0] * len(counts)]
            one.served_by = tuple(
                before + (counts[n] if n < len(counts) else 0)
                for n, before in enumerate(known[: max(len(counts), len(one.served_by))])
            )

    # -- the load

    def _find_conversation(self, server: Server) -> Converse:
        send = self.plan.send
        if isinstance(send, Script):
            send.load()
            return send
        exchange = _find_exchange(server, send)
        if self.plan.requests != 1 and not exchange.can_be_repeated:
            raise BenchError(
                f"--requests {self.plan.requests}: the server ends the connection after one answer"
            )
        return exchange

    def _order(self, server: Server, concurrency: int, seconds: float) -> Order:
        return Order(
            server.address,
            concurrency,
            seconds,
            rate=self.plan.rate,
            requests=self.plan.requests,
        )

    def _measure_alone(self) -> None:
        """See where the time of a connection goes that has the server to itself."""
        name = next(iter(self.measured))
        with self._serving(name) as server:
            order = Order(server.address, 1, self.plan.seconds, requests=self.plan.requests)
            turn, deaths = self._turn_and_deaths(server, order)
            self._check(self.measured[name], turn, server, deaths)
        if turn.ok:
            self.profile = Profile(
                turn.seconds / turn.ok,
                turn.cpu_each,
                turn.generator_cpu / turn.ok,
                turn.delay / turn.ok,
            )

    def _take_turn(self, one: Measured, concurrency: int) -> Turn:
        with self._serving(one.variant.name) as server, ExitStack() as stack:
            if self.plan.idle:
                before = memory(server.pid)
                stack.enter_context(_holding(server, self.plan.idle))
                each = (_steady_memory(server) - before) / self.plan.idle
                one.idle_each = max(one.idle_each, each)  # later rounds find memory kept
            if self.plan.is_fixed or concurrency not in one.turns:  # else it is warm
                self._turn(server, self._order(server, concurrency, WARM_UP))
            order = self._order(server, concurrency, self.plan.seconds)
            turn, deaths = self._turn_and_deaths(server, order)
            one.deaths += deaths
            if turn.failures and turn.failures.keys() <= UNSERVED and not self._is_datagram():
                raise _Overwhelmed(_describe_overload(turn, self.plan, concurrency))
            self._check(one, turn, server, deaths * concurrency)
            return turn

    def _turn_and_deaths(self, server: Server, order: Order) -> tuple[Turn, int]:
        deaths = _count_deaths(server)
        turn = self._turn(server, order)
        if turn.failures:
            server.ends_within(LATE_WORDS)
        return turn, _count_deaths(server) - deaths

    def _turn(self, server: Server, order: Order) -> Turn:
        try:
            return take_turn(server, self._generator, order)
        except ServerFailed as failure:
            raise BenchError(failure.what, said=failure.said) from None
        except LoadFailed as failure:
            raise BenchError(str(failure)) from None

    def _check(self, one: Measured, turn: Turn, server: Server, excusable: int) -> None:
        """Raise Spoiled for a turn with failures that so many lost by crashes do not explain."""
        by_crash = sum(turn.failures.get(what, 0) for what in BY_CRASH)
        excused = BY_CRASH if by_crash <= excusable else ()
        wrong = {what: count for what, count in turn.failures.items() if what not in excused}
        if self._is_datagram():
            wrong.pop("unanswered", None)  # a datagram may get lost; the table says how many
        if wrong or not turn.ok:
            said = describe_failures(wrong) or "no answer"
            complaint = f" ({turn.complaint})" if turn.complaint else ""
            raise Spoiled(
                f"{one.variant.name}: {said}{complaint}, beside {turn.ok} good answers",
                said=_errors_of(server),
            )

    def _is_datagram(self) -> bool:
        return self.bind.startswith(("udp", "unixgram"))

    # -- idle connections

    def _foresee_idle(self, one: Measured) -> str:
        """Return why a variant cannot hold the idle connections, before it is made to try."""
        idle, places = self.plan.idle, one.variant.places()
        if not idle:
            return ""
        if places is not None and places <= idle:
            return f"none is served: {idle} idle connections take all its {places} places"
        if one.variant.mode is not Mode.PROCESS:
            return ""
        with self._serving(one.variant.name) as server:
            before = memory(server.pid)
            with _holding(server, SAMPLE):
                one.idle_each = (_steady_memory(server) - before) / SAMPLE
        wanted, free = one.idle_each * idle, available_memory()
        if idle <= MOST_PROCESSES and wanted <= free / 2:
            return ""
        return (
            f"not tried: {idle} processes of {show_bytes(one.idle_each)} each would take"
            f" {show_bytes(wanted)}, and {show_bytes(free)} are free"
        )


@contextmanager
def _holding(server: Server, count: int) -> Iterator[None]:
    with ExitStack() as stack:
        try:
            stack.enter_context(holding(server.address, count))
        except OSError as error:
            raise _Overwhelmed(f"cannot hold {count} connections: {error}") from None
        yield


def _find_exchange(server: Server, question: bytes) -> Exchange | DatagramExchange:
    """Ask again where it was a crash that we heard: what else is said once counts."""
    for _ in range(CRASHES_AT_FIRST):
        deaths = _count_deaths(server)
        try:
            return find_exchange(server.address, question)
        except BenchError:
            server.ends_within(LATE_WORDS)
            if _count_deaths(server) == deaths:
                raise
    return find_exchange(server.address, question)


def _steady_memory(server: Server) -> int:
    """Return what a server holds when all that came at once has its thread or process."""
    last, until = memory(server.pid), monotonic() + BECOMES_STEADY
    while not server.ends_within(0.1) and monotonic() < until:
        now = memory(server.pid)
        if now <= last * 1.01:
            return now
        last = now
    return last


def _describe_overload(turn: Turn, plan: Plan, concurrency: int) -> str:
    """Return what a mode could not cope with."""
    load = f"{plan.rate:g} requests a second" if plan.rate else f"{concurrency} clients"
    beside = f" beside {plan.idle} idle connections" if plan.idle else ""
    late = f"{turn.failed} of {turn.failed + turn.ok} got no answer in time"
    return f"does not cope with {load}{beside}: {late}"


def _errors_of(server: Server) -> str:
    """Return the server's log from its first error on."""
    before, found, after = server.said().partition(" [ERROR] ")
    return before.rpartition("\n")[2] + found + after if found else ""


def _count_deaths(server: Server) -> int:
    return len(DEATHS.findall(server.said()))


def _describe_start(failure: ServerFailed) -> BenchError:
    """Return a server's own last words before it ended, with its status."""
    before, _, last = failure.said.rstrip().rpartition("\n")
    found = ERROR.match(last)
    if not found:
        return BenchError(failure.what, said=failure.said)
    return BenchError(last[found.end() :], said=before, exit_status=failure.status or 1)


def _path_of_ours() -> str:
    """Return a path on which the server finds this forkserve, as `python3 -m` did for us."""
    ours = str(Path(__file__).resolve().parent.parent.parent)
    given = os.environ.get("PYTHONPATH")
    return os.pathsep.join([ours, given] if given else [ours]) if ours in sys.path else given or ""
