"""A page of HTML that shows text, tables and charts, and needs nothing but itself."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Literal

from forkserve.bench.chart import Chart
from forkserve.bench.drawing import draw
from forkserve.bench.table import Table

CSS = Path(__file__).with_name("page.css")
HINT = "Charts are shown as tables only: pip install 'forkserve[bench]' brings what draws them."


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading below the page's title, which has level 1."""

    text: str
    level: Literal[2, 3, 4] = 2


@dataclass(frozen=True, slots=True)
class Text:
    """A paragraph of plain text."""

    paragraph: str


Part = Heading | Text | Table | Chart


def render(title: str, parts: Sequence[Part], *, environment: Mapping[str, object]) -> str:
    """Return the whole page; charts are drawn where matplotlib is installed."""
    names = (f"chart-{n}" for n in itertools.count(1))
    drawings = [draw(part, next(names)) if isinstance(part, Chart) else None for part in parts]
    shown = [_show(part, drawing) for part, drawing in zip(parts, drawings, strict=True)]
    is_without_charts = any(isinstance(part, Chart) for part in parts) and not any(drawings)
    hint = f'<p class="hint">{escape(HINT)}</p>' if is_without_charts else ""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{escape(title)}</title>
<style>
{CSS.read_text()}</style>
</head>
<body>
<main>
<h1>{escape(title)}</h1>
{_show_environment(environment)}
{hint}
{_join(shown)}
</main>
</body>
</html>
"""


def _show(part: Part, drawing: str | None) -> str:
    match part:
        case Heading(text, level):
            return f"<h{level}>{escape(text)}</h{level}>"
        case Text(paragraph):
            return f"<p>{escape(paragraph)}</p>"
        case Table():
            return _show_table(part)
        case Chart():
            return _show_chart(part, drawing)


def _show_environment(environment: Mapping[str, object]) -> str:
    pairs = (
        f"<div><dt>{escape(name)}</dt><dd>{escape(_show_value(value))}</dd></div>"
        for name, value in environment.items()
    )
    return f'<dl class="environment">\n{_join(pairs)}\n</dl>' if environment else ""


def _show_value(value: object) -> str:
    return "not installed" if value is None else str(value)


def _show_chart(chart: Chart, drawing: str | None) -> str:
    numbers = _show_table(replace(chart.numbers(), title=chart.y_label))
    drawn = f'<div class="drawing">\n{drawing}</div>\n' if drawing else ""
    return f"""<figure>
<figcaption>{escape(chart.title)}</figcaption>
<div class="chart">
{drawn}{numbers}
</div>
</figure>"""


def _show_table(table: Table) -> str:
    columns = "".join(f'<th scope="col">{escape(name)}</th>' for name in table.columns)
    notes = [f'<p class="note">{escape(note)}</p>' for note in table.notes]
    return f"""<div class="table">
<table>
<caption>{escape(table.title)}</caption>
<thead><tr>{columns}</tr></thead>
<tbody>
{_join(_show_row(row) for row in table.rows)}
</tbody>
</table>
{_join(notes)}
</div>"""


def _show_row(row: Sequence[str]) -> str:
    name, *figures = map(escape, row)
    cells = "".join(f"<td>{figure}</td>" for figure in figures)
    return f'<tr><th scope="row">{name}</th>{cells}</tr>'


def _join(lines: Iterable[str]) -> str:
    return "\n".join(lines)
