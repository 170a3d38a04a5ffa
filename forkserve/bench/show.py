"""What was measured, as tables, charts and plain values."""

from collections.abc import Sequence
from typing import Any

from forkserve.bench.chart import Chart
from forkserve.bench.measured import Measured, Profile
from forkserve.bench.recommend import Recommendation
from forkserve.bench.rounds import Turn, middle
from forkserve.bench.table import Table, show_bytes, show_count, show_time

COLUMNS = ("requests/s", "p50", "p99", "p99.9", "CPU each", "memory", "failed")


def make_tables(
    measured: Sequence[Measured], concurrency: Sequence[int], *, are_kept: bool
) -> list[Table]:
    """Return a table for each concurrency, and one of how connections were shared.

    Kept connections are those of several requests: a place is taken as long as there are more.
    """
    tables = [
        Table(
            f"{number} at a time" if number > 1 else "one at a time",
            ("mode", *COLUMNS),
            tuple(_row(one, number) for one in measured),
            _notes(measured) + (_notes_of_turns(measured, number) if are_kept else ()),
        )
        for number in concurrency
        if any(one.turns.get(number) for one in measured)
    ]
    shared = [one for one in measured if len(one.served_by) > 1]
    if shared:
        rows = tuple((one.variant.name, *_shares(one.served_by)) for one in shared)
        columns = ("mode", "workers", "least", "most", "fairness")
        tables.append(Table("connections of each worker", columns, rows))
    return tables


def _notes(measured: Sequence[Measured]) -> tuple[str, ...]:
    return tuple(f"{one.variant.name}: {one.excluded}" for one in measured if one.excluded)


def _notes_of_turns(measured: Sequence[Measured], concurrency: int) -> tuple[str, ...]:
    return tuple(
        f"{one.variant.name}: serves {places} of {concurrency} kept connections at a time, the"
        " others wait until one ends"
        for one in measured
        if one.turns.get(concurrency)
        and (places := one.variant.places()) is not None
        and places < concurrency
    )


def _row(one: Measured, concurrency: int) -> tuple[str, ...]:
    turns = one.turns.get(concurrency)
    if not turns:
        return (one.variant.name, *["-"] * len(COLUMNS))
    failed = sum(turn.failed for turn in turns)
    return (
        one.variant.name,
        show_count(middle(turns, lambda turn: turn.throughput)),
        show_time(middle(turns, lambda turn: turn.p50)),
        show_time(middle(turns, lambda turn: turn.p99)),
        show_time(middle(turns, lambda turn: turn.p999)),
        show_time(middle(turns, lambda turn: turn.cpu_each)),
        show_bytes(middle(turns, lambda turn: turn.memory)),
        show_count(failed),
    )


def _shares(counts: Sequence[int]) -> tuple[str, ...]:
    return (
        str(len(counts)),
        show_count(min(counts)),
        show_count(max(counts)),
        f"{fairness(counts):.3f}",
    )


def fairness(counts: Sequence[int]) -> float:
    """Return Jain's index: 1 where all have the same, 1/n where one has everything."""
    squares = sum(count * count for count in counts)
    return sum(counts) ** 2 / (len(counts) * squares) if squares else 1.0


def make_charts(measured: Sequence[Measured], concurrency: Sequence[int]) -> list[Chart]:
    """Return the charts of a page; concurrency is their x axis."""
    points = tuple(str(number) for number in concurrency)

    def chart(title: str, unit: str, figure: Any, *, is_logarithmic: bool = False) -> Chart:
        series = {
            one.variant.name: tuple(_figure(one, number, figure) for number in concurrency)
            for one in measured
            if one.turns
        }
        return Chart(title, "connections at a time", unit, points, series, "lines", is_logarithmic)

    charts = [
        chart("Throughput", "requests a second", lambda turn: turn.throughput),
        chart("Median latency", "ms", lambda turn: turn.p50 * 1e3, is_logarithmic=True),
        chart("99th percentile", "ms", lambda turn: turn.p99 * 1e3, is_logarithmic=True),
        chart("99.9th percentile", "ms", lambda turn: turn.p999 * 1e3, is_logarithmic=True),
        chart("CPU each", "us", lambda turn: turn.cpu_each * 1e6, is_logarithmic=True),
        chart("Memory under load", "MB", lambda turn: turn.memory / 1e6),
    ]
    shared = [one for one in measured if len(one.served_by) > 1]
    if shared:
        most = max(len(one.served_by) for one in shared)
        series = {
            one.variant.name: tuple(
                float(count) for count in (*one.served_by, *[float("nan")] * most)[:most]
            )
            for one in shared
        }
        names = tuple(f"worker {n}" for n in range(most))
        charts.append(Chart("Connections of each worker", "", "connections", names, series, "bars"))
    return charts


def _figure(one: Measured, concurrency: int, figure: Any) -> float:
    turns = one.turns.get(concurrency)
    return middle(turns, figure) if turns else float("nan")


def as_json(
    measured: Sequence[Measured], profile: Profile | None, found: Recommendation | None
) -> dict[str, Any]:
    """Return everything that was found as plain values; times in seconds, memory in bytes."""
    return {
        "profile": None
        if profile is None
        else {
            "latency": profile.latency,
            "waiting_share": profile.waiting_share,
            "processor_share": profile.processor_share,
        },
        "variants": [
            {
                "name": one.variant.name,
                "flags": list(one.variant.flags),
                "turns": {
                    str(number): [_known(turn.as_json()) for turn in turns]
                    for number, turns in one.turns.items()
                },
                "served_by": list(one.served_by),
                "deaths": one.deaths,
                "excluded": one.excluded,
                "idle_each": one.idle_each,
            }
            for one in measured
        ],
        "recommendation": None
        if found is None
        else {
            "variant": found.variant.name,
            "flags": list(found.variant.flags),
            "reasons": list(found.reasons),
            "sureness": found.sureness,
            "warnings": list(found.warnings),
        },
    }


def _known(values: dict[str, Any]) -> dict[str, Any]:
    """Return values with None for what is not known: JSON has no nan."""
    return {name: None if value != value else value for name, value in values.items()}


def describe_turn(turn: Turn) -> str:
    """Return a turn in a few words."""
    return f"{show_count(turn.throughput)} a second, p99 {show_time(turn.p99)}"
