"""Which mode fits a handler: decided from figures alone."""

from collections.abc import Sequence
from dataclasses import dataclass

from forkserve.bench.measured import Measured, Profile
from forkserve.bench.reasons import (
    MOSTLY,
    describe_doubts,
    describe_idle,
    describe_lead,
    describe_merit,
    describe_profile,
    describe_rivals,
    describe_sureness,
)
from forkserve.bench.rounds import Turn, middle
from forkserve.bench.score import CPU, THROUGHPUT, Score, choose_score, is_limited
from forkserve.bench.table import show_time
from forkserve.bench.variants import Variant
from forkserve.settings import Mode

STARVED = 10.0  # so many times another's p99 says that some clients are left waiting,
UNEQUAL = 5.0  # if it is so many times the same mode's median: else all clients wait alike


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
    score = choose_score(able, concurrency, is_open_loop=is_open_loop)
    if score.what == CPU:
        candidates = _without_slower(candidates, Score(THROUGHPUT, concurrency), reasons)
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
        reasons.insert(0, describe_profile(profile, chosen.variant))
    reasons += describe_idle(chosen, able, measured, idle)
    reasons += describe_rivals(chosen, candidates, score)
    return Recommendation(
        chosen.variant,
        tuple(reasons),
        describe_sureness(chosen, candidates, score, measured),
        tuple(describe_doubts(able, concurrency)),
    )


def _find_concurrency(able: Sequence[Measured]) -> int:
    """Return the most clients at a time that all variants were given, or if need be only some."""
    reached = [{number for number, turns in one.turns.items() if turns} for one in able]
    return max(set.intersection(*reached) or set.union(*reached))


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
    candidates: Sequence[Measured], speed: Score, reasons: list[str]
) -> list[Measured]:
    """Leave out those that were not held back as the fastest was: to be cheap is not enough."""
    fastest = max(candidates, key=speed.of)
    kept = [
        one
        for one in candidates
        if is_limited(one, speed.concurrency) or speed.is_equal(one, fastest)
    ]
    reasons += [
        f"{one.variant.name} is {describe_lead(speed.compare(one, fastest), speed.what)}"
        f"{describe_merit(one, fastest)}"
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
