"""How a chart is drawn: as SVG that has no colour, font or reference of its own."""

import re
import sys
from collections.abc import Callable
from dataclasses import replace
from math import inf, nan
from typing import Literal
from xml.etree import ElementTree

import pytest

from forkserve.bench.chart import Chart
from forkserve.bench.drawing import draw, lies_down, show_tick, ticks
from tests.support.charts import CPU, EVERY_KIND, LATENCY, LINES, MANY, prepare_drawing

Draw = Callable[..., str]


@pytest.fixture(scope="module")
def drawn() -> Draw:
    """Return what draws a chart."""
    prepare_drawing()
    return _drawn


def _drawn(chart: Chart, name: str = "chart") -> str:
    drawing = draw(chart, name)
    assert drawing is not None
    return drawing


def _texts(drawing: str) -> list[str]:
    return [text.text or "" for text in ElementTree.fromstring(drawing).iter("text")]


def test_without_matplotlib_there_is_no_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Charts are optional, so their absence is an answer and not an error."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert draw(LINES) is None


@pytest.mark.parametrize("chart", EVERY_KIND, ids=lambda chart: chart.title)
def test_a_drawing_refers_to_nothing_outside(drawn: Draw, chart: Chart) -> None:
    """There is no address in it, neither of a resource nor of a namespace, and no style sheet."""
    drawing = drawn(chart)
    assert "http" not in drawing
    assert "<style" not in drawing


@pytest.mark.parametrize("chart", EVERY_KIND, ids=lambda chart: chart.title)
def test_a_drawing_takes_its_colours_and_font_from_the_page(drawn: Draw, chart: Chart) -> None:
    """No colour is written in it, so that one drawing is legible in light and in dark."""
    drawing = drawn(chart)
    assert re.findall(r"#[0-9a-f]{6}|black|white|font-family", drawing) == []
    assert "currentColor" in drawing
    assert "var(--series-0)" in drawing


@pytest.mark.parametrize("chart", EVERY_KIND, ids=lambda chart: chart.title)
def test_every_id_begins_with_the_name_and_is_there_when_used(drawn: Draw, chart: Chart) -> None:
    """Drawings of one page do not take each other's markers."""
    drawing = drawn(chart, "chart-7")
    ids = re.findall(r' id="([^"]*)"', drawing)
    assert len(ids) == len(set(ids))
    assert {one[:8] for one in ids} == {"chart-7-"}
    assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', drawing)) <= set(ids)


def test_the_same_chart_gives_the_same_drawing(drawn: Draw) -> None:
    """A page changes only where its figures do."""
    assert drawn(LINES) == drawn(LINES)


def test_names_are_escaped_and_never_formulas(drawn: Draw) -> None:
    """Whatever a title, an axis or a series is called, the drawing is well-formed and shows it."""
    name = "<b> & $x$ \"y\" 'z'"
    chart = Chart(name, name, name, ("<1>", "2"), {name: (1, 2), "_b": (2, 1)})
    root = ElementTree.fromstring(drawn(chart))
    assert root.findtext("title") == name
    assert {name, "<1>", "2"} <= set(_texts(drawn(chart)))


def test_a_drawing_says_what_it_shows(drawn: Draw) -> None:
    """Who cannot see the drawing is told its title, axes and series."""
    root = ElementTree.fromstring(drawn(LATENCY, "c"))
    assert root.attrib["role"] == "img"
    assert root.attrib["aria-labelledby"] == "c-title c-description"
    described = root.findtext("desc")
    assert described == "Lines: ms by connections at a time, for prefork, process."


def test_what_was_not_measured_is_a_gap(drawn: Draw) -> None:
    """A nan has no marker, and the line does not pass over it."""
    measured = replace(LATENCY, series={**LATENCY.series, "process": (0.6, 1.0, 240.0)})
    assert drawn(measured).count("<use") == drawn(LATENCY).count("<use") + 1


def test_points_of_lines_stand_evenly(drawn: Draw) -> None:
    """1, 8 and 64 are as far from each other: small numbers are not squeezed."""
    texts = ElementTree.fromstring(drawn(LINES)).iter("text")
    first, second, third = (float(t.attrib["x"]) for t in texts if t.text in LINES.points)
    assert second - first == pytest.approx(third - second)


def test_a_logarithmic_axis_has_plain_numbers(drawn: Draw) -> None:
    """The scale reads 0.1, 1, 10 ... and its unit, not powers of ten."""
    assert {"0.1", "1", "10", "100", "ms"} <= set(_texts(drawn(LATENCY)))


def test_one_series_has_no_legend(drawn: Draw) -> None:
    """What the axis already says is not said again."""
    assert _texts(drawn(MANY)).count("requests/s") == 1


@pytest.mark.parametrize("kind", ["lines", "bars"])
@pytest.mark.parametrize("is_logarithmic", [False, True])
@pytest.mark.parametrize(
    "values",
    [(nan, nan), (0.0, 0.0), (-1.0, 0.0), (5.0, 5.0), (inf, 1.0), (1e-9, 1e9)],
    ids=str,
)
def test_every_value_can_be_drawn(
    drawn: Draw, kind: Literal["lines", "bars"], is_logarithmic: bool, values: tuple[float, float]
) -> None:
    """Nothing that a benchmark can find makes drawing fail or warn."""
    chart = replace(LINES, points=("a", "b"), series={"x": values}, is_logarithmic=is_logarithmic)
    assert {"a", "b"} <= set(_texts(drawn(replace(chart, kind=kind))))


@pytest.mark.parametrize("kind", ["lines", "bars"])
def test_an_empty_chart_can_be_drawn(drawn: Draw, kind: Literal["lines", "bars"]) -> None:
    """Where everything was missing there are axes and nothing in them."""
    assert "connections at a time" in _texts(drawn(replace(LINES, points=(), series={}, kind=kind)))


def test_bars_lie_down_where_their_names_would_collide() -> None:
    """Few short names stand side by side; long ones and many are written one below another."""
    assert not lies_down(CPU)
    assert lies_down(MANY)
    assert lies_down(replace(CPU, points=tuple("1234567")))
    assert lies_down(replace(CPU, points=("process --connections-per-child 1000", "b", "c")))
    assert not lies_down(replace(LINES, points=tuple("1234567")))


@pytest.mark.parametrize(
    ("lowest", "highest", "shown"),
    [
        (0.3, 4.0, [0.2, 0.5, 1, 2, 5]),
        (1.0, 10.0, [1, 2, 5, 10]),
        (7.0, 7.0, [5, 10]),
        (5.0, 5.0, [5, 10]),
        (10.0, 10.0, [10, 20]),
        (0.02, 900.0, [0.01, 0.1, 1, 10, 100, 1000]),
    ],
)
def test_ticks_enclose_the_values(lowest: float, highest: float, shown: list[float]) -> None:
    """The scale begins and ends at a plain number, and has a few between."""
    assert ticks(lowest, highest) == pytest.approx(shown)


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0"), (0.001, "0.001"), (2.5, "2.5"), (100, "100"), (45000, "45 000"), (-20, "-20")],
)
def test_a_tick_is_a_plain_number(value: float, shown: str) -> None:
    """No zeros behind, no power of ten, a space between thousands."""
    assert show_tick(value) == shown
