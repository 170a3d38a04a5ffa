"""The page of figures as a browser shows it, in light and in dark."""

import contextlib
import html
import json
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from forkserve.bench import page
from forkserve.bench.page import Heading, Part, Text
from forkserve.bench.table import Table
from tests.support import processes
from tests.support.charts import EVERY_KIND, prepare_drawing
from tests.support.requirements import requires

pytestmark = pytest.mark.heavy

Scheme = Literal["light", "dark"]
SCHEMES: tuple[Scheme, ...] = ("light", "dark")

TABLE = Table("Speed", ("mode", "requests/s"), (("thread", "1 000"), ("prefork", "-")), ("noisy",))

# Writes what the browser made of the page where the dump of the document shows it.
PROBE = """
<script>
const style = getComputedStyle(document.body);
const texts = [...document.querySelectorAll("svg text")];
const box = (element) => {
    const {left, top, right, bottom} = element.getBoundingClientRect();
    return [left, top, right, bottom];
};
const size = (text) => {
    const svg = text.ownerSVGElement;
    const scale = svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
    return parseFloat(getComputedStyle(text).fontSize) * scale;
};
const colours = (selector, property) => [
    ...new Set([...document.querySelectorAll(selector)].map((e) => getComputedStyle(e)[property])),
];
document.body.dataset.seen = JSON.stringify({
    ground: style.backgroundColor,
    ink: style.color,
    text_colours: colours("svg text", "fill"),
    line_colours: colours("svg path", "stroke"),
    sizes: texts.map(size),
    charts: [...document.querySelectorAll("svg")].map((svg) => ({
        box: box(svg),
        numbers: box(svg.closest("figure").querySelector("table")),
        texts: [...svg.querySelectorAll("text")].map((text) => [text.textContent, box(text)]),
    })),
    fetched: performance.getEntriesByType("resource").map((entry) => entry.name),
    overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
});
console.log("probed");
</script>
"""

Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Seen:
    """What a browser said of a page, on its console and of its layout."""

    console: list[str]
    layout: dict[str, Any]


@pytest.fixture(scope="module")
def written() -> str:
    """Return a page with every kind of part."""
    prepare_drawing()
    parts: list[Part] = [Heading("Modes"), Text("How it was measured."), TABLE, *EVERY_KIND]
    return page.render("Figures", parts, environment={"CPUs": 2})


def _open(written: str, folder: Path, scheme: Scheme, width: int = 1200) -> Seen:
    requires("chromium")
    path = folder / "page.html"
    path.write_text(written.replace("</body>", f"{PROBE}</body>"))
    command = [
        "chromium",
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--enable-logging=stderr",
        "--v=0",
        f"--user-data-dir={folder / 'profile'}",
        f"--blink-settings=preferredColorScheme={SCHEMES[::-1].index(scheme)}",
        f"--window-size={width},2000",
        "--dump-dom",
        path.as_uri(),
    ]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=50)
    _collect_helpers()
    found = re.search(r'data-seen="([^"]*)"', ended.stdout)
    assert found is not None, ended.stderr
    console = re.findall(r":CONSOLE:\d+\] (.*)", ended.stderr)
    return Seen(console, json.loads(html.unescape(found[1])))


def _collect_helpers() -> None:
    """Wait for the processes that the browser leaves to us when it ends."""
    for process in processes.descendants(os.getpid()):
        assert processes.wait_until_gone(process.pid), process
        with contextlib.suppress(ChildProcessError):
            os.waitpid(process.pid, 0)


def _brightness(colour: str) -> float:
    red, green, blue = map(int, re.findall(r"\d+", colour)[:3])
    return (0.299 * red + 0.587 * green + 0.114 * blue) / 255


def _overlap(one: Box, other: Box) -> bool:
    """Whether two boxes share more than a pixel in both directions."""
    return all(min(one[n + 2], other[n + 2]) - max(one[n], other[n]) > 1 for n in (0, 1))


def _outside(chart: dict[str, Any]) -> list[tuple[str, Box]]:
    """Return the texts that the edge of the drawing cuts."""
    left, top, right, bottom = chart["box"]
    return [
        (text, box)
        for text, box in chart["texts"]
        if box[0] < left or box[1] < top or box[2] > right or box[3] > bottom
    ]


def _collisions(texts: list[tuple[str, Box]]) -> list[tuple[str, str]]:
    return [
        (text, other)
        for n, (text, box) in enumerate(texts)
        for other, other_box in texts[:n]
        if _overlap(box, other_box)
    ]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_page_opens_without_a_complaint(written: str, tmp_path: Path, scheme: Scheme) -> None:
    """The console has the line of our probe and no other, and nothing was fetched."""
    seen = _open(written, tmp_path, scheme)
    assert [line.split(",")[0] for line in seen.console] == ['"probed"']
    assert seen.layout["fetched"] == []


@pytest.mark.parametrize("scheme", SCHEMES)
def test_text_stands_out_from_the_ground(written: str, tmp_path: Path, scheme: Scheme) -> None:
    """Dark is dark and light is light, on the page as in its drawings."""
    layout = _open(written, tmp_path, scheme).layout
    ground, ink = _brightness(layout["ground"]), _brightness(layout["ink"])
    assert (ground > ink) is (scheme == "light")
    assert abs(ground - ink) > 0.7
    assert layout["text_colours"] == [layout["ink"]]


def test_lines_have_other_colours_in_the_dark(written: str, tmp_path: Path) -> None:
    """One drawing takes the colours of either scheme."""
    light = _open(written, tmp_path, "light").layout["line_colours"]
    dark = _open(written, tmp_path, "dark").layout["line_colours"]
    assert len(light) == len(dark) > len(EVERY_KIND)
    assert set(light) & set(dark) == {"none"}


def test_the_page_is_legible_on_1200_pixels(written: str, tmp_path: Path) -> None:
    """Texts of a chart are 11 pixels high, inside of it, apart, and its numbers are beside it."""
    layout = _open(written, tmp_path, "light").layout
    charts = layout["charts"]
    assert len(charts) == len(EVERY_KIND)
    assert min(layout["sizes"]) >= 11
    assert [_collisions(chart["texts"]) for chart in charts] == [[]] * len(charts)
    assert [_outside(chart) for chart in charts] == [[]] * len(charts)
    assert all(chart["numbers"][0] > chart["box"][2] for chart in charts)
    assert layout["overflow"] == 0


def test_a_narrow_page_has_the_numbers_below(written: str, tmp_path: Path) -> None:
    """On half of the width nothing is cut off: a table comes after its chart."""
    layout = _open(written, tmp_path, "light", width=600).layout
    assert all(chart["numbers"][1] >= chart["box"][3] for chart in layout["charts"])
    assert min(layout["sizes"]) >= 11
    assert layout["overflow"] == 0
