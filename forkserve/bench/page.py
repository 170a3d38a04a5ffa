"""A page of HTML that shows text, tables and charts, and needs nothing but itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

from forkserve.bench.chart import Chart
from forkserve.bench.drawing import draw
from forkserve.bench.table import Table


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
    lines = [f"{name}: {value}" for name, value in environment.items()]
    lines += [draw(part) or repr(part) if isinstance(part, Chart) else repr(part) for part in parts]
    body = "".join(f"<p>{escape(line)}</p>" for line in lines)
    return f"<!doctype html><title>{escape(title)}</title>{body}"
