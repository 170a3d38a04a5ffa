"""What was measured, as tables, charts and plain values."""

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forkserve.bench.measured import Measured, Profile
from forkserve.bench.recommend import recommend
from forkserve.bench.rounds import Turn
from forkserve.bench.show import as_json, describe_turn, fairness, make_charts, make_tables
from forkserve.bench.variants import make_variants
from forkserve.settings import Mode

THREAD, PREFORK = make_variants([Mode.THREAD, Mode.PREFORK], (), (1,), cpus=2, clients=8)
TURN = Turn(
    ok=1000,
    failures={},
    seconds=1.0,
    cpu=0.1,
    p50=0.001,
    p99=0.002,
    p999=0.003,
    generator=0.2,
    generator_cpu=0.2,
    elsewhere=0.0,
    memory=20_000_000,
    slowest=0.004,
)
PROFILE = Profile(latency=0.001, server=0.0002, client=0.0001)


def both() -> list[Measured]:
    """Return two modes: one measured, one excluded."""
    rounds = [replace(TURN, ok=ok, failures={"reset": 1}) for ok in (1000, 2000, 3000)]
    return [
        Measured(THREAD, {1: rounds}, deaths=2, idle_each=20e3),
        Measured(PREFORK, excluded="none is served"),
    ]


def test_a_table_shows_medians_and_the_sum_of_failures() -> None:
    """Times, memory and counts come with their units, and the title says the load."""
    (table,) = make_tables(both()[:1], [1, 8], are_kept=False)
    assert table.title == "one at a time"
    assert table.columns == (
        "mode", "requests/s", "p50", "p99", "p99.9", "CPU each", "memory", "failed"
    )  # fmt: skip
    assert table.rows == (
        ("thread", "2 000", "1.00 ms", "2.00 ms", "3.00 ms", "50.0 us", "20.0 MB", "3"),
    )


def test_a_mode_without_figures_has_dashes_and_its_reason_below() -> None:
    """A mode that was left out stays in the table, and never with a number."""
    (table,) = make_tables(both(), [1], are_kept=False)
    assert table.rows[1] == ("prefork 2", *["-"] * 7)
    assert table.notes == ("prefork 2: none is served",)


def test_kept_connections_that_are_served_by_turns_are_noted() -> None:
    """Where there are fewer places than clients, the figures are those of some at a time."""
    one = Measured(PREFORK, {2: [TURN], 8: [TURN]})
    notes = [table.notes for table in make_tables([one], [2, 8], are_kept=True)]
    assert notes == [
        (),
        ("prefork 2: serves 2 of 8 kept connections at a time, the others wait until one ends",),
    ]


def test_each_load_that_was_reached_has_a_table() -> None:
    """After an interruption there is none for what was not begun."""
    one = Measured(THREAD, {1: [TURN], 8: [TURN]})
    assert [table.title for table in make_tables([one], [1, 8, 64], are_kept=False)] == [
        "one at a time",
        "8 at a time",
    ]


def test_workers_have_a_table_of_how_connections_were_shared() -> None:
    """The least and the most that one worker had, and how even that is."""
    one = Measured(PREFORK, {1: [TURN]}, served_by=(1000, 3000))
    assert make_tables([one], [1], are_kept=False)[1].rows == (
        ("prefork 2", "2", "1 000", "3 000", "0.800"),
    )


@pytest.mark.parametrize(
    ("counts", "index"),
    [((5, 5, 5), 1.0), ((9, 0, 0), 1 / 3), ((0, 0), 1.0)],
)
def test_fairness_is_jains_index(counts: tuple[int, ...], index: float) -> None:
    """1 where all have the same, 1/n where one has everything."""
    assert fairness(counts) == pytest.approx(index)


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=9))
def test_fairness_is_a_share(counts: list[int]) -> None:
    """It never leaves its range, whatever was served."""
    assert 1 / len(counts) - 1e-9 <= fairness(counts) <= 1 + 1e-9


def test_charts_have_a_point_for_each_load() -> None:
    """What was not measured is a gap, a mode that was left out no line."""
    charts = {chart.title: chart for chart in make_charts(both(), [1, 8])}
    throughput = charts["Throughput"]
    assert throughput.points == ("1", "8")
    assert list(throughput.series) == ["thread"]
    assert throughput.series["thread"][0] == 2000
    assert math.isnan(throughput.series["thread"][1])
    assert charts["99th percentile"].series["thread"][0] == pytest.approx(2.0)


def test_workers_have_a_chart_of_their_own() -> None:
    """A bar for each worker; a mode with fewer workers has gaps."""
    few = Measured(PREFORK, {1: [TURN]}, served_by=(1, 2))
    more = Measured(THREAD, {1: [TURN]}, served_by=(1, 2, 3))
    chart = make_charts([few, more], [1])[-1]
    assert chart.points == ("worker 0", "worker 1", "worker 2")
    assert list(chart.series["thread"]) == [1, 2, 3]
    assert math.isnan(chart.series["prefork 2"][2])


def test_the_values_hold_everything_that_the_text_shows() -> None:
    """Whoever reads the JSON can make the tables and the recommendation of it."""
    measured = both()
    found = recommend(measured, PROFILE)
    values = json.loads(json.dumps(as_json(measured, PROFILE, found), allow_nan=False))
    thread, prefork = values["variants"]
    assert thread["name"] == "thread"
    assert thread["flags"] == ["-m", "thread"]
    assert [turn["throughput"] for turn in thread["turns"]["1"]] == [1000, 2000, 3000]
    assert thread["turns"]["1"][0]["failures"] == {"reset": 1}
    assert thread["turns"]["1"][0]["cpu_each"] == pytest.approx(0.0001)
    assert (thread["deaths"], thread["idle_each"]) == (2, 20e3)
    assert prefork["excluded"] == "none is served"
    assert prefork["turns"] == {}
    assert values["profile"]["waiting_share"] == pytest.approx(0.7)
    assert found is not None
    assert values["recommendation"] == {
        "variant": "thread",
        "flags": ["-m", "thread"],
        "reasons": list(found.reasons),
        "sureness": found.sureness,
        "warnings": list(found.warnings),
    }


def test_without_figures_the_values_say_none() -> None:
    """An interruption before the first turn leaves nothing to make up."""
    values = as_json([Measured(THREAD)], None, None)
    assert values["profile"] is None
    assert values["recommendation"] is None


def test_a_figure_that_is_not_known_is_null() -> None:
    """JSON has no nan, and readers other than Python's stop at it."""
    turn = replace(TURN, ok=0, p50=math.nan, slowest=math.nan)
    values = as_json([Measured(THREAD, {1: [turn]})], None, None)
    assert (
        json.loads(json.dumps(values, allow_nan=False))["variants"][0]["turns"]["1"][0]["p50"]
        is None
    )


def test_a_turn_in_a_few_words() -> None:
    """Its rate and its tail."""
    assert describe_turn(TURN) == "1 000 a second, p99 2.00 ms"
