"""Which mode fits a handler, and how sure that is: decided from figures alone."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

from forkserve.bench.figures import Ratio, ratio
from forkserve.bench.rounds import Turn, middle
from forkserve.bench.table import show_bytes, show_count, show_time
from forkserve.bench.variants import Variant
from forkserve.settings import Mode

THROUGHPUT, CPU, P99 = "throughput", "CPU a connection", "p99"  # what variants are compared by
EQUAL = 0.05  # a lead that is not worth a word
MOSTLY = 0.5  # of a connection's time: from here on a handler is one that waits, or computes
STARVED = 10.0  # so many times another's p99 says that some clients are left waiting,
UNEQUAL = 5.0  # if it is so many times the same mode's median: else all clients wait alike
BUSY_GENERATOR = 0.9
BUSY_ELSEWHERE = 0.15  # CPUs
MUCH_ELSEWHERE = 0.5
DIFFER = 0.25  # of the median, between the slowest and the fastest round
DIFFERING_SHOWN = 3
DELAYED = 0.1  # of a connection's time
LEAST = 1e-9  # what is nothing is taken for this, where something is divided by it


@dataclass(frozen=True, slots=True)
class Profile:
    """Where the time of a connection goes that has the server to itself, in seconds."""

    latency: float
    server: float  # on a CPU, in the server
    client: float  # on a CPU, in the client
    delay: float = 0.0  # either of them, waiting for a CPU

    @property
    def processor_share(self) -> float:
        """The share in which the server is on a CPU."""
        return min(1.0, self.server / max(self.latency, LEAST))

    @property
    def waiting_share(self) -> float:
        """The share in which neither side is on a CPU: the handler waits for something else."""
        known = self.server + self.client + self.delay
        return max(0.0, 1.0 - known / max(self.latency, LEAST))

    @property
    def delay_share(self) -> float:
        """The share in which one of them could have run and had no CPU."""
        return min(1.0, self.delay / max(self.latency, LEAST))


@dataclass(slots=True)
class Measured:
    """What one variant did: its turns, round by round, for each concurrency."""

    variant: Variant
    turns: dict[int, list[Turn]] = field(default_factory=dict)
    deaths: int = 0  # of workers, or of connections' processes
    served_by: tuple[int, ...] = ()  # connections of each worker
    excluded: str = ""  # why it has no figures
    idle_each: float = 0.0  # bytes of an idle connection

    def lost(self) -> int:
        """Return how many clients were not answered."""
        return sum(turn.failed for turns in self.turns.values() for turn in turns)


@dataclass(frozen=True, slots=True)
class Recommendation:
    """What to type, and why."""

    variant: Variant
    reasons: tuple[str, ...]
    sureness: str
    warnings: tuple[str, ...] = ()


def recommend(
    measured: Sequence[Measured],
    profile: Profile | None,
    *,
    idle: int = 0,
    is_open_loop: bool = False,
) -> Recommendation | None:
    """Return which variant to use, None if none could serve; pure."""
    able = [one for one in measured if not one.excluded and any(one.turns.values())]
    if not able:
        return None
    concurrency = _find_concurrency(able)
    able = [one for one in able if one.turns.get(concurrency)]
    reasons: list[str] = []
    candidates = _without_needless_loss(able, reasons)
    candidates = _without_starving(candidates, concurrency, reasons)
    score = _choose_score(able, concurrency, is_open_loop=is_open_loop)
    if score.what == CPU:
        candidates = _without_slower(candidates, _Score(THROUGHPUT, concurrency), reasons)
    best = max(candidates, key=score.of)
    equals = [one for one in candidates if one is best or score.is_equal(one, best)]
    has_crashed = any(one.deaths for one in able)
    chosen = min(
        equals,
        key=lambda one: (
            has_crashed and one.variant.shares_processes(),  # each crash takes others with it
            _taste(one.variant, profile, idle),
        ),
    )
    if profile is not None:
        reasons.insert(0, _describe_profile(profile, chosen.variant))
    reasons += _describe_idle(chosen, able, measured, idle)
    reasons += _describe_rivals(chosen, candidates, score)
    return Recommendation(
        chosen.variant,
        tuple(reasons),
        _how_sure(chosen, candidates, score, measured),
        tuple(_warn(able, concurrency)),
    )


def _find_concurrency(able: Sequence[Measured]) -> int:
    """Return the most clients at a time that all variants were given, or if need be only some."""
    reached = [{number for number, turns in one.turns.items() if turns} for one in able]
    return max(set.intersection(*reached) or set.union(*reached))


class _Score:
    """Compares two variants by one figure."""

    def __init__(self, what: str, concurrency: int) -> None:
        self.what, self.concurrency = what, concurrency
        self._figure = {P99: _quickness, CPU: _thrift, THROUGHPUT: _throughput}[what]

    def of(self, one: Measured) -> float:
        """Return the median of what is compared; more is better."""
        return median(self.rounds(one))

    def rounds(self, one: Measured) -> list[float]:
        """Return what is compared, round by round."""
        return [max(LEAST, self._figure(turn)) for turn in one.turns[self.concurrency]]

    def compare(self, one: Measured, other: Measured) -> Ratio:
        """Return how many times the other's score the one's is."""
        mine, others = self.rounds(one), self.rounds(other)
        count = min(len(mine), len(others))  # after Ctrl-C the last round is not whole
        return ratio(mine[:count], others[:count])

    def is_equal(self, one: Measured, best: Measured) -> bool:
        """Whether one is as good as the best, for all that can be told."""
        found = self.compare(one, best)
        return found.median > 1 - EQUAL or (not found.tells_apart and found.median > 1 - 2 * EQUAL)

    def describe(self, found: Ratio, mine: str, other: str) -> str:
        """Return in words how many times the other's score mine is."""
        if self.what == THROUGHPUT:
            return f"{self.what} is {found} times {other}'s"
        return f"{other}'s {self.what} is {found} times {mine}'s"


def _choose_score(able: Sequence[Measured], concurrency: int, *, is_open_loop: bool) -> _Score:
    """Compare by what the load left free to differ."""
    fastest = max(able, key=lambda one: middle(one.turns[concurrency], _throughput))
    if is_open_loop:
        return _Score(P99, concurrency)
    return _Score(CPU if _is_limited(fastest, concurrency) else THROUGHPUT, concurrency)


def _is_limited(one: Measured, concurrency: int) -> bool:
    """Whether a variant could have done more than it was asked."""
    return middle(one.turns[concurrency], lambda turn: turn.generator) > BUSY_GENERATOR


def _throughput(turn: Turn) -> float:
    return turn.throughput


def _quickness(turn: Turn) -> float:
    return 1 / turn.p99 if turn.p99 else 0.0


def _thrift(turn: Turn) -> float:
    return 1 / turn.cpu_each if turn.cpu_each else 0.0


def _without_needless_loss(able: Sequence[Measured], reasons: list[str]) -> list[Measured]:
    """Leave out those that lose more clients for each crash than others do."""
    if not any(one.deaths for one in able):
        return list(able)
    losses = {one.variant.name: one.lost() / one.deaths for one in able if one.deaths}
    least = min(losses.values())
    kept = [
        one for one in able if losses.get(one.variant.name, least) <= least * _leeway(one.variant)
    ]
    named = ", ".join(f"{name} {loss:.1f}" for name, loss in losses.items())
    left_out = "; what loses more is left out" if len(kept) < len(able) else ""
    reasons.append(f"workers crashed; clients lost for each crash: {named}{left_out}")
    return kept


def _leeway(variant: Variant) -> float:
    """Return how many times the least loss may be counted for a variant before it is a worse one.

    Where a process has one connection at a time, it loses that one; all else is a miscount.
    """
    return 1.02 if variant.shares_processes() else 1.25


def _without_starving(
    candidates: Sequence[Measured], concurrency: int, reasons: list[str]
) -> list[Measured]:
    """Leave out those in which some clients wait far longer than elsewhere for no gain."""
    late = {one.variant.name: middle(one.turns[concurrency], lateness) for one in candidates}
    soonest = min(late.values())
    kept = [one for one in candidates if not _starves(one, concurrency, soonest)]
    reasons += [
        f"{one.variant.name} makes some clients wait {show_time(late[one.variant.name])} (the best"
        f" mode: {show_time(soonest)})"
        for one in candidates
        if one not in kept
    ]
    return kept or list(candidates)


def _starves(one: Measured, concurrency: int, soonest: float) -> bool:
    turns = one.turns[concurrency]
    late, usual = middle(turns, lateness), middle(turns, lambda turn: turn.p50)
    return late > max(0.1, STARVED * soonest) and not late <= UNEQUAL * usual


def _without_slower(
    candidates: Sequence[Measured], speed: _Score, reasons: list[str]
) -> list[Measured]:
    """Leave out those that were not held back as the fastest was: to be cheap is not enough."""
    fastest = max(candidates, key=speed.of)
    kept = [
        one
        for one in candidates
        if _is_limited(one, speed.concurrency) or speed.is_equal(one, fastest)
    ]
    reasons += [
        f"{one.variant.name} is {_describe_lead(speed.compare(one, fastest), speed.what)}"
        f"{_merit(one, fastest)}"
        for one in candidates
        if one not in kept
    ]
    return kept


def lateness(turn: Turn) -> float:
    """Return how long the unlucky wait: p99, or longer if one waited nearly all of the turn.

    On kept connections those that are served may be so many requests that p99 is all theirs.
    """
    return turn.slowest if turn.slowest > 0.8 * turn.seconds else turn.p99


def _taste(variant: Variant, profile: Profile | None, idle: int) -> int:
    """Return the place of a variant among those that perform alike; the first is taken."""
    waits = idle > 0 or (profile is not None and profile.waiting_share >= MOSTLY)
    if variant.mode is Mode.PREFORK:
        kind = "prefork with threads" if variant.threads > 1 else "prefork"
    else:
        kind = str(variant.mode)
    if waits:  # threads are the cheapest place to wait in
        order = ("thread", "prefork with threads", "process", "prefork", "iterative")
    else:  # one that computes, or is short: a worker a core, and crashes stay apart
        order = ("prefork", "prefork with threads", "thread", "process", "iterative")
    return order.index(kind)


def _describe_profile(profile: Profile, chosen: Variant) -> str:
    waiting, processor = profile.waiting_share, profile.processor_share
    what = {Mode.THREAD: "threads", Mode.PREFORK: "prefork"}.get(chosen.mode, str(chosen.mode))
    if chosen.mode is Mode.PREFORK and waiting < MOSTLY:
        what += f", {chosen.workers} workers" if chosen.workers > 1 else ""
    delayed = profile.delay_share
    queued = f", {delayed:.0%} waiting for a CPU that others had" if delayed > DELAYED else ""
    return (
        f"{waiting:.0%} of a connection is spent waiting, {processor:.0%} on the processor{queued}"
        f" ({show_time(profile.latency)} alone): {what}"
    )


def _describe_idle(
    chosen: Measured, able: Sequence[Measured], measured: Sequence[Measured], idle: int
) -> list[str]:
    if not idle:
        return []
    lines = [
        f"{show_count(idle)} idle connections take {show_bytes(one.idle_each)} each in"
        f" {one.variant.name}: {show_bytes(one.idle_each * idle)}"
        for one in sorted(able, key=lambda one: one is not chosen)
    ]
    return lines + [f"{one.variant.name}: {one.excluded}" for one in measured if one.excluded]


def _describe_rivals(chosen: Measured, candidates: Sequence[Measured], score: _Score) -> list[str]:
    lines = []
    for one in sorted(candidates, key=score.of, reverse=True):
        if one is chosen:
            continue
        found = score.compare(one, chosen)
        lines.append(
            f"{one.variant.name} is {_describe_lead(found, score.what)}{_merit(one, chosen)}"
        )
    return lines


def _describe_lead(found: Ratio, what: str) -> str:
    worse, better = {
        THROUGHPUT: ("slower", "faster"),
        CPU: ("dearer", "cheaper"),
        P99: ("later at p99", "sooner at p99"),
    }[what]
    if abs(found.median - 1) < 0.01:
        return "as good" if not found.is_noisy else "not to be told apart from it"
    if found.median < 0.5:
        return f"{1 / found.median:.1f} times {worse}"
    # Of a rate that is 0.8 times another's is 20% slower; what costs 1/0.8 is 25% dearer.
    part = found.median if what == THROUGHPUT else 1 / found.median
    text = f"{abs(1 - part):.0%} {worse if found.median < 1 else better}"
    return text if found.tells_apart else f"{text}, within the noise"


def _merit(one: Measured, chosen: Measured) -> str:
    """Return what speaks for a variant beside its speed."""

    def apart(variant: Variant) -> bool:
        return variant.mode is Mode.PROCESS or variant.workers > 1

    if apart(one.variant) and not apart(chosen.variant):
        return " and isolates crashes"
    if one.variant.mode is Mode.ITERATIVE:
        return ", but one slow client holds up all the others"
    return ""


def _how_sure(
    chosen: Measured,
    candidates: Sequence[Measured],
    score: _Score,
    measured: Sequence[Measured],
) -> str:
    rivals = [one for one in candidates if one is not chosen]
    rounds = len(chosen.turns[score.concurrency])
    if any(not one.excluded and not one.turns.get(score.concurrency) for one in measured):
        return "not sure: some modes have not been measured"
    if len(measured) == 1:
        return "not compared: no other mode was measured"
    if rounds < 3:
        return f"not sure: the rounds are too few ({rounds})"
    if not rivals:
        return "sure: no other mode comes near"
    nearest = max(rivals, key=score.of)
    found = score.compare(chosen, nearest)
    name = nearest.variant.name
    detail = f"{score.describe(found, chosen.variant.name, name)} in {rounds} rounds"
    if found.is_noisy and not found.tells_apart:
        return f"not sure: the machine was too noisy to tell it from {name} ({detail})"
    if abs(found.median - 1) <= EQUAL or not found.tells_apart:
        return f"fairly sure: {name} performs alike ({detail}), and what is named above decides"
    if _busy_elsewhere([chosen, nearest]) > MUCH_ELSEWHERE:
        return f"not sure, since other programs had much of the CPUs: {detail}"
    return f"sure: {detail}"


def _busy_elsewhere(some: Sequence[Measured]) -> float:
    """Return how many CPUs were busy with something else."""
    return median(t.elsewhere for one in some for turns in one.turns.values() for t in turns)


def _warn(able: Sequence[Measured], concurrency: int) -> list[str]:
    """Return what makes figures less than they seem."""
    lines = []
    limited = [one.variant.name for one in able if _is_limited(one, concurrency)]
    if limited:
        lines.append(
            f"the load generator was the limit for {', '.join(limited)}: these could do more;"
            " compare their CPU a connection, or use more --clients"
        )
    elsewhere = _busy_elsewhere(able)
    if elsewhere > BUSY_ELSEWHERE:
        lines.append(
            f"{elsewhere:.1f} CPUs were busy with something else: a quiet machine tells more"
        )
    return lines + _warn_of_differing(able)


def _warn_of_differing(able: Sequence[Measured]) -> list[str]:
    """Return a line that names the cells of the tables whose rounds agree least."""
    found = []
    for one in able:
        for number, turns in one.turns.items():
            rates = sorted(turn.throughput for turn in turns)
            spread = (rates[-1] - rates[0]) / max(median(rates), LEAST) if rates else 0.0
            if spread > DIFFER:
                span = f"{show_count(rates[0])} to {show_count(rates[-1])} a second"
                found.append((spread, f"{one.variant.name} at {number}, {span}"))
    worst = [text for _, text in sorted(found, reverse=True)]
    more = f"; and {len(worst) - DIFFERING_SHOWN} more" if len(worst) > DIFFERING_SHOWN else ""
    shown = "; ".join(worst[:DIFFERING_SHOWN])
    return [f"rounds differ by more than {DIFFER:.0%}: {shown}{more}"] if worst else []
