"""What speaks for a mode and against it, how sure that is, and what makes figures doubtful."""

from collections.abc import Sequence
from statistics import median

from forkserve.bench.figures import Ratio
from forkserve.bench.measured import LEAST, Measured, Profile
from forkserve.bench.score import CPU, EQUAL, P99, THROUGHPUT, Score, is_limited
from forkserve.bench.table import show_bytes, show_count, show_time
from forkserve.bench.variants import Variant
from forkserve.settings import Mode

MOSTLY = 0.5  # of a connection's time: from here on a handler is one that waits, or computes
DELAYED = 0.1  # of a connection's time
BUSY_ELSEWHERE = 0.15  # CPUs
MUCH_ELSEWHERE = 0.5
DIFFER = 0.25  # of the median, between the slowest and the fastest round
DIFFERING_SHOWN = 3


def describe_profile(profile: Profile, chosen: Variant) -> str:
    """Return where the time of a connection goes, and what that asks for."""
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


def describe_idle(
    chosen: Measured, able: Sequence[Measured], measured: Sequence[Measured], idle: int
) -> list[str]:
    """Return what idle connections take in each variant, and who cannot hold them."""
    if not idle:
        return []
    lines = [_describe_memory(one, idle) for one in sorted(able, key=lambda one: one is not chosen)]
    return lines + [f"{one.variant.name}: {one.excluded}" for one in measured if one.excluded]


def _describe_memory(one: Measured, idle: int) -> str:
    connections, name = f"{show_count(idle)} idle connections take", one.variant.name
    if one.idle_each <= 0:  # what else the server gave back was more
        return f"{connections} too little to be measured in {name}"
    whole = show_bytes(one.idle_each * idle)
    return f"{connections} {show_bytes(one.idle_each)} each in {name}: {whole}"


def describe_rivals(chosen: Measured, candidates: Sequence[Measured], score: Score) -> list[str]:
    """Return how the others compare with the chosen one, the best of them first."""
    lines = []
    for one in sorted(candidates, key=score.of, reverse=True):
        if one is chosen:
            continue
        found = score.compare(one, chosen)
        lines.append(
            f"{one.variant.name} is {describe_lead(found, score.what)}{describe_merit(one, chosen)}"
        )
    return lines


def describe_lead(found: Ratio, what: str) -> str:
    """Return in words how many times as good one is as another."""
    worse, better = {
        THROUGHPUT: ("slower", "faster"),
        CPU: ("dearer", "cheaper"),
        P99: ("later at p99", "sooner at p99"),
    }[what]
    if abs(found.median - 1) < 0.01:
        return "as good" if not found.is_noisy else "not to be told apart from it"
    if found.median < 0.5:
        return f"{1 / max(found.median, LEAST):.1f} times {worse}"
    # Of a rate that is 0.8 times another's is 20% slower; what costs 1/0.8 is 25% dearer.
    part = found.median if what == THROUGHPUT else 1 / found.median
    text = f"{abs(1 - part):.0%} {worse if found.median < 1 else better}"
    return text if found.tells_apart else f"{text}, within the noise"


def describe_merit(one: Measured, chosen: Measured) -> str:
    """Return what speaks for a variant beside its speed."""

    def apart(variant: Variant) -> bool:
        return variant.mode is Mode.PROCESS or variant.workers > 1

    if apart(one.variant) and not apart(chosen.variant):
        return " and isolates crashes"
    if one.variant.mode is Mode.ITERATIVE:
        return ", but one slow client holds up all the others"
    return ""


def describe_sureness(
    chosen: Measured,
    candidates: Sequence[Measured],
    score: Score,
    measured: Sequence[Measured],
) -> str:
    """Return how sure the choice is, and why."""
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


def describe_doubts(able: Sequence[Measured], concurrency: int) -> list[str]:
    """Return what makes figures less than they seem."""
    lines = []
    limited = [one.variant.name for one in able if is_limited(one, concurrency)]
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
