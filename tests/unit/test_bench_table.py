"""Tables: figures under each other, in a terminal and in a README."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forkserve.bench.table import Table, from_json, show_bytes, show_count, show_time

TABLE = Table(
    "Time of an answer",
    ("mode", "p50", "requests a second"),
    (("process", "1.25 ms", "800"), ("prefork", "90.5 us", "11 000")),
    ("one CPU each",),
)


def test_text_is_aligned() -> None:
    """Names stand to the left, figures to the right, notes below."""
    assert TABLE.as_text().splitlines() == [
        "Time of an answer",
        "  mode         p50  requests a second",
        "  process  1.25 ms                800",
        "  prefork  90.5 us             11 000",
        "  one CPU each",
    ]


def test_markdown() -> None:
    """A table for a README has its columns and rows, and figures to the right."""
    assert TABLE.as_markdown().splitlines() == [
        "| mode | p50 | requests a second |",
        "| --- | ---: | ---: |",
        "| process | 1.25 ms | 800 |",
        "| prefork | 90.5 us | 11 000 |",
    ]


def test_empty_table() -> None:
    """A table without rows is its head."""
    table = Table("Nothing", ("mode", "p50"), ())
    assert table.as_text() == "Nothing\n  mode  p50"
    assert table.as_markdown() == "| mode | p50 |\n| --- | ---: |"


TEXT = st.text(max_size=8)


@given(st.integers(1, 4).flatmap(
    lambda width: st.builds(
        Table,
        TEXT,
        st.tuples(*[TEXT] * width),
        st.lists(st.tuples(*[TEXT] * width), max_size=4).map(tuple),
        st.lists(TEXT, max_size=2).map(tuple),
    )
))  # fmt: skip
def test_json_round_trip(table: Table) -> None:
    """What was written as JSON is the same table when read."""
    assert from_json(json.loads(json.dumps(table.as_json()))) == table


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.0, "0.00 us"),
        (1e-9, "0.00 us"),
        (1.234e-6, "1.23 us"),
        (12.345e-6, "12.3 us"),
        (999.4e-6, "999 us"),
        (999.6e-6, "1.00 ms"),
        (1e-3, "1.00 ms"),
        (9.996e-3, "10.0 ms"),
        (99.96e-3, "100 ms"),
        (0.9994, "999 ms"),
        (0.9996, "1.00 s"),
        (1.0, "1.00 s"),
        (59.96, "60.0 s"),
        (12345.6, "12346 s"),
        (math.nan, "-"),
    ],
)
def test_show_time(seconds: float, shown: str) -> None:
    """A time has three digits and the unit that suits it."""
    assert show_time(seconds) == shown


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (999.6, "1.00 kB"),
        (1000, "1.00 kB"),
        (999_400, "999 kB"),
        (999_600, "1.00 MB"),
        (12_345_678, "12.3 MB"),
        (999_700_000, "1.00 GB"),
        (1.5e12, "1500 GB"),
        (-2_000_000, "-2.00 MB"),
        (math.nan, "-"),
    ],
)
def test_show_bytes(size: float, shown: str) -> None:
    """An amount of memory has three digits and the unit that suits it."""
    assert show_bytes(size) == shown


@pytest.mark.parametrize(
    ("count", "shown"),
    [(0, "0"), (999.4, "999"), (999.6, "1 000"), (1234567, "1 234 567"), (math.nan, "-")],
)
def test_show_count(count: float, shown: str) -> None:
    """A number has a space between thousands."""
    assert show_count(count) == shown
