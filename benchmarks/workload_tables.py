"""How the workloads' results are shown: a table and a chart each, and who wins which."""

import math
import statistics
from collections.abc import Callable, Mapping

from benchmarks.workload_results import (
    BESIDE,
    CPUS,
    DEFAULT,
    NOT_SERVED,
    Decision,
    Held,
    Outcome,
    Standing,
    Workload,
)
from forkserve.bench.chart import Chart
from forkserve.bench.figures import Ratio
from forkserve.bench.rounds import Turn, describe_failures
from forkserve.bench.table import Table, show_bytes, show_count, show_time

LEGEND = (
    f"process --spare 4: with --connections-per-child 100; prefork: {CPUS} workers, one a CPU",
)


def show_decimal(value: float) -> str:
    """Return a figure with one decimal, or that there is none."""
    return "-" if math.isnan(value) else f"{value:.1f}"


def show_rate(value: float) -> str:
    """Return answers a second, or that there is no figure."""
    return "-" if math.isnan(value) else show_count(value)


def show_memory(size: float) -> str:
    """Return an amount of memory, or that there is no figure."""
    return "-" if math.isnan(size) else show_bytes(size)


def figures_of(outcome: Outcome) -> tuple[str, ...]:
    """Return the cells that every table has."""
    return (
        show_rate(outcome.middle(lambda turn: turn.throughput)),
        show_time(outcome.middle(lambda turn: turn.p50)),
        show_time(outcome.middle(lambda turn: turn.p99)),
        show_time(outcome.middle(lambda turn: turn.cpu_each)),
    )


FIGURES = ("answers/s", "p50", "p99", "CPU each")


def tabulate(workload: Workload, outcomes: Mapping[str, Outcome]) -> Table:
    """Return a workload's table."""
    of_crashes = ("died", "lost") if workload.has_crashes else ()
    columns = ("mode", *FIGURES, "memory", "failures", *of_crashes)
    rows = []
    for name, outcome in outcomes.items():
        held = show_memory(outcome.middle(lambda turn: turn.memory))
        failures: tuple[str, ...] = (
            outcome.fault or describe_failures(outcome.failures) or "none",
        )
        if workload.has_crashes:
            failures = (*failures, str(outcome.deaths), show_decimal(outcome.lost))
        rows.append((name, *figures_of(outcome), held, *failures))
    notes = (*workload.notes, *LEGEND, *notes_on_load(outcomes))
    return Table(workload.title, columns, tuple(rows), notes)


def notes_on_load(outcomes: Mapping[str, Outcome]) -> tuple[str, ...]:
    """Name the modes that could have done more with a faster load generator."""
    busy = [name for name, one in outcomes.items() if one.middle(lambda turn: turn.generator) > 0.9]
    return (f"the load generator was the limit of: {', '.join(busy)}",) if busy else ()


def tabulate_idle(count: int, found: Mapping[str, Held]) -> Table:
    """Return the table of idle connections."""
    columns = ("mode", "held", "memory each", f"of {show_count(count)}", *FIGURES, "failures")
    rows = []
    for name, held in found.items():
        each = statistics.median(held.each) if held.each else math.nan
        mark = "" if held.count == count or math.isnan(each) else " *"
        rows.append(
            (
                name,
                show_count(held.count),
                show_memory(each),
                show_memory(each * count) + mark,
                *figures_of(held.outcome),
                held.outcome.fault or "none",
            )
        )
    notes = (
        f"answers/s and what follows: {BESIDE} short connections at a time beside the idle ones",
        "* not held but reckoned from the fewer that were, since each takes a process",
        f"{NOT_SERVED}: the idle ones take every place, and whoever comes next waits",
        *LEGEND,
    )
    title = f"{show_count(count)} idle connections"
    return Table(title, columns, tuple(rows), notes)


def draw(workload: Workload, outcomes: Mapping[str, Outcome]) -> Chart:
    """Return bars of answers a second."""
    rates = tuple(one.middle(lambda turn: turn.throughput) for one in outcomes.values())
    return Chart(
        workload.title, "mode", "answers a second", tuple(outcomes), {"answers/s": rates}, "bars"
    )


def draw_idle(found: Mapping[str, Held]) -> Chart:
    """Return bars of the memory of an idle connection."""
    sizes = {name: statistics.median(held.each) for name, held in found.items() if held.each}
    return Chart(
        "Memory of an idle connection",
        "mode",
        "kB",
        tuple(sizes),
        {"memory": tuple(size / 1000 for size in sizes.values())},
        "bars",
        is_logarithmic=True,
    )


# -- the summary


def whom_to_compare(decision: Decision, standings: Mapping[str, Standing]) -> str:
    """Return beside whom the best one's figures say most: the default if it is surely worse."""
    is_worse = DEFAULT not in decision.best and not standings[DEFAULT].fault
    return DEFAULT if is_worse else decision.next


def why(workload: Workload, outcomes: Mapping[str, Outcome], decision: Decision) -> str:
    """Say in figures what the best one has over the one it is compared with."""
    best = decision.best[0]
    other = whom_to_compare(decision, {name: one.standing for name, one in outcomes.items()})

    def compare(figure: Callable[[Turn], float], show: Callable[[float], str]) -> str:
        text = show(outcomes[best].middle(figure))
        return f"{text}, {other} {show(outcomes[other].middle(figure))}" if other else text

    losers = {name: one.lost for name, one in outcomes.items() if one.lost > 0}
    if losers:
        most = max(losers, key=lambda name: losers[name])
        return f"0 others lost for a crash, {most} {losers[most]:.1f}"
    if workload.has_slow_readers:
        return "p99: " + compare(lambda turn: turn.p99, show_time)
    if workload.waiting:
        return "waits at a time: " + compare(
            lambda turn: turn.throughput * workload.waiting, show_decimal
        )
    if workload.is_computing:
        return "CPUs busy: " + compare(lambda turn: turn.cpu / turn.seconds, show_decimal)
    return "CPU each: " + compare(lambda turn: turn.cpu_each, show_time)


def why_idle(found: Mapping[str, Held], decision: Decision) -> str:
    """Say how much memory an idle connection takes in the best mode and in the worst."""
    sizes = {name: statistics.median(held.each) for name, held in found.items() if held.each}
    best, worst = decision.best[0], max(sizes, key=lambda name: sizes[name])
    return f"memory each: {show_bytes(sizes[best])}, {worst} {show_bytes(sizes[worst])}"


def summarize(
    name: str, standings: Mapping[str, Standing], decision: Decision, reason: str
) -> tuple[str, ...]:
    """Return a workload's line of the summary."""
    if not decision.best:
        return (name, "none", "-", "-", "none was without a fault")
    winner = ", ".join(decision.best)
    over_next = "-"
    if decision.over_next is not None:
        over_next = f"{show_times(decision.over_next)} {decision.next}"
    return (
        name,
        f"a tie: {winner}" if decision.is_tie else winner,
        over_next,
        show_over_default(standings, decision),
        reason,
    )


def show_over_default(standings: Mapping[str, Standing], decision: Decision) -> str:
    """Return how much better than the default the best one is."""
    if standings[DEFAULT].fault:
        return f"default: {standings[DEFAULT].fault}"
    if decision.best[0] == DEFAULT:
        return "is the default"
    assert decision.over_default is not None
    return show_times(decision.over_default)


def show_times(over: Ratio) -> str:
    """Return a ratio with its interval, and whether it is noisy."""
    noise = " noisy" if over.is_noisy else ""
    return f"{over.median:.2f} x [{over.low:.2f} {over.high:.2f}]{noise}"


SUMMARY_COLUMNS = ("workload", "winner", "over the next", "over the default", "why")
SUMMARY_NOTES = (
    "judged by answers a second; of idle connections by the memory of one; failures exclude",
    "a tie: the rounds do not tell them apart, the first has the best median",
)
