"""What a chart holds, and how its numbers are shown."""

import json
from dataclasses import replace
from math import inf, nan

import pytest

from forkserve.bench import chart
from forkserve.bench.chart import Chart, show_all

SPEED = Chart(
    "Speed",
    "connections",
    "requests/s",
    ("1", "8", "64"),
    {"thread": (1000.0, nan, 3000.0), "prefork": (1500.5, 2.0, 0.0)},
    kind="bars",
    is_logarithmic=True,
)


def test_numbers_are_a_row_for_each_point() -> None:
    """The table has the points as names and every figure of every series below its name."""
    table = SPEED.numbers()
    assert table.title == "Speed (requests/s)"
    assert table.columns == ("connections", "thread", "prefork")
    assert table.rows == (("1", "1 000", "1 500"), ("8", "-", "2.00"), ("64", "3 000", "0.00"))


def test_more_series_than_points_are_the_rows() -> None:
    """A table is rather long than wide: where there are more series, each is a row."""
    table = replace(SPEED, points=("1",), series={"a": (1.0,), "b": (2.5,)}).numbers()
    assert table.columns == ("connections:", "1")
    assert table.rows == (("a", "1"), ("b", "2.50"))


def test_a_series_of_another_length_is_a_mistake() -> None:
    """A chart whose series lacks a point has no table."""
    with pytest.raises(ValueError, match="shorter"):
        replace(SPEED, series={"a": (1.0,)}).numbers()


def test_a_chart_survives_json() -> None:
    """What as_json() says is strict JSON, and from_json() makes the same chart of it."""
    text = json.dumps(SPEED.as_json(), allow_nan=False)
    again = chart.from_json(json.loads(text))
    assert repr(again) == repr(SPEED)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (123456.7, "123 000"),
        (1234.5, "1 230"),
        (999.6, "1 000"),
        (99.96, "100"),
        (12.345, "12.3"),
        (9.996, "10.0"),
        (1.2345, "1.23"),
        (0.012345, "0.0123"),
        (0.00099996, "0.00100"),
        (-1.2345, "-1.23"),
        (nan, "-"),
        (inf, "inf"),
    ],
)
def test_a_number_has_three_significant_digits(value: float, shown: str) -> None:
    """However large or small, a figure shows three digits and no power of ten."""
    assert show_all([value, 0.5]) == (shown, "0.500")


def test_whole_numbers_stay_whole() -> None:
    """Counts are shown without a point, unless one of the series has a fraction."""
    assert show_all([64.0, 8.0, nan, 0.0]) == ("64", "8", "-", "0")
    assert show_all([64.0, 8.5]) == ("64.0", "8.50")
