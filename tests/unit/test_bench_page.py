"""What a page of figures says, and that it needs nothing but itself."""

import re
import sys
from html.parser import HTMLParser

import pytest

from forkserve.bench import page
from forkserve.bench.chart import Chart
from forkserve.bench.page import Heading, Part, Text
from forkserve.bench.table import Table
from tests.support.charts import CPU, EVERY_KIND, LATENCY, LINES, prepare_drawing

NASTY = "<b>\"x\" & 'y'</b><script>alert(1)</script>"
TABLE = Table("Speed", ("mode", "requests/s"), (("thread", "1 000"), ("prefork", "-")), ("noisy",))


class Page(HTMLParser):
    """The elements of a page, the text of each, and what was opened and not closed."""

    VOID = ("meta", "link")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.texts: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append((self.open[-1], data.strip()))

    def text_of(self, tag: str) -> list[str]:
        return [text for owner, text in self.texts if owner == tag]


def _read(*parts: Part, environment: dict[str, object] | None = None) -> Page:
    read = Page()
    read.feed(page.render("Figures", parts, environment=environment or {}))
    assert read.open == []
    return read


@pytest.fixture
def _without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)


@pytest.fixture(scope="module")
def _with_matplotlib() -> None:
    prepare_drawing()


def test_parts_come_in_their_order() -> None:
    """Headings have their level, and text and tables stand where they were put."""
    read = _read(Heading("Modes"), Text("How."), TABLE, Heading("More", 3))
    shown = [pair for pair in read.texts if pair[0] in ("h1", "h2", "h3", "p", "caption")]
    assert shown == [
        ("h1", "Figures"),
        ("h2", "Modes"),
        ("p", "How."),
        ("caption", "Speed"),
        ("p", "noisy"),
        ("h3", "More"),
    ]


def test_a_table_says_what_its_headers_head() -> None:
    """Columns and names are headers with a scope, figures are cells."""
    read = _read(TABLE)
    assert read.text_of("th") == ["mode", "requests/s", "thread", "prefork"]
    assert read.text_of("td") == ["1 000", "-"]
    scopes = [value for _, name, value in read.attributes if name == "scope"]
    assert scopes == ["col", "col", "row", "row"]


def test_the_environment_is_on_the_page() -> None:
    """Each fact has its name, and a version that is None was not installed."""
    read = _read(environment={"CPUs": 2, "uvloop": None})
    assert read.text_of("dt") == ["CPUs", "uvloop"]
    assert read.text_of("dd") == ["2", "not installed"]


def test_the_page_names_its_language_and_both_colour_schemes() -> None:
    """Browsers know before the style sheet that dark is as good as light."""
    attributes = _read().attributes
    assert ("html", "lang", "en") in attributes
    assert ("meta", "content", "light dark") in attributes


@pytest.mark.usefixtures("_without_matplotlib")
def test_without_matplotlib_there_are_the_numbers_and_a_hint() -> None:
    """Every chart is still there as a table, and one line says how to have it drawn."""
    read = _read(LINES, CPU)
    assert read.text_of("figcaption") == ["Throughput", "CPU time of a request"]
    assert "17 500" in read.text_of("td")
    assert [text for text in read.text_of("p") if "pip install 'forkserve[bench]'" in text] == [
        page.HINT
    ]
    assert read.text_of("svg") == []


def test_a_page_without_charts_has_no_hint() -> None:
    """Nobody is told to install what would change nothing."""
    assert page.HINT not in _read(TABLE).text_of("p")


@pytest.mark.usefixtures("_with_matplotlib")
def test_a_chart_has_its_numbers_beside_it() -> None:
    """With a drawing there is the same table, in the same figure, and no hint."""
    read = _read(LATENCY)
    rows = LATENCY.numbers().rows
    assert read.text_of("td") == [cell for row in rows for cell in row[1:]]
    assert read.text_of("title") == ["Figures", "Latency, p99.9"]
    assert page.HINT not in read.text_of("p")


@pytest.mark.usefixtures("_with_matplotlib")
def test_whatever_things_are_called_is_text() -> None:
    """No name of anything becomes markup, neither in HTML nor in SVG."""
    chart = Chart(NASTY, NASTY, NASTY, (NASTY, "b"), {NASTY: (1.0, 2.0), "z": (2.0, 1.0)}, "bars")
    table = Table(NASTY, (NASTY, NASTY), ((NASTY, NASTY),), (NASTY,))
    parts: list[Part] = [Heading(NASTY), Text(NASTY), table, chart]
    written = page.render(NASTY, parts, environment={NASTY: NASTY})
    read = Page()
    read.feed(written)
    assert "<script" not in written
    assert "<b>" not in written
    places = {tag for tag, text in read.texts if text == NASTY}
    assert places >= {"title", "h1", "h2", "p", "dt", "dd", "caption", "th", "td", "figcaption"}
    assert "text" in places


@pytest.mark.usefixtures("_with_matplotlib")
def test_the_page_needs_nothing_but_itself() -> None:
    """No address, no script, no import; what is referred to is an id of the page, and unique."""
    written = page.render("Figures", EVERY_KIND * 2, environment={"a": 1})
    assert re.findall(r"http|//|@import|<script|src=", written) == []
    assert set(re.findall(r"url\((.)", written)) == {"#"}
    assert set(re.findall(r'href="(data:,|#)', written)) == {"data:,", "#"}
    assert len(re.findall(r"href=", written)) == len(re.findall(r'href="(?:data:,"|#)', written))
    ids = re.findall(r' id="([^"]*)"', written)
    assert len(ids) == len(set(ids))
    assert {f"chart-{n}-title" for n in range(1, 9)} <= set(ids)


def _colours(scheme: str) -> dict[str, str]:
    light, dark = page.CSS.read_text().split("prefers-color-scheme: dark")
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", light if scheme == "light" else dark))


def _luminance(colour: str) -> float:
    shares = (int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5))
    red, green, blue = (s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _contrast(one: str, other: str) -> float:
    darker, lighter = sorted((_luminance(one), _luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


SERIES = [f"series-{n}" for n in range(8)]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    ("name", "least"),
    [("ink", 12.0), ("quiet", 4.5), ("axis", 3.0), *((series, 3.0) for series in SERIES)],
)
def test_colours_are_legible_in_both_schemes(scheme: str, name: str, least: float) -> None:
    """Against the ground, text and graphics have the contrast that WCAG 2 asks for, or more."""
    colours = _colours(scheme)
    assert _contrast(colours[name], colours["ground"]) >= least


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_colour_that_is_used_has_a_value(scheme: str) -> None:
    """What drawings and rules ask for is defined for light and again for dark."""
    used = set(re.findall(r"var\(--([\w-]+)\)", page.CSS.read_text()))
    assert used | {*SERIES, "grid", "axis"} == set(_colours(scheme))
