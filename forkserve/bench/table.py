"""A table of figures, as plain text and as Markdown."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Table:
    """Cells as they are shown, the first column a name; notes stand below it."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return the table as plain values."""
        return {
            "title": self.title,
            "columns": list(self.columns),
            "rows": [list(row) for row in self.rows],
            "notes": list(self.notes),
        }

    def as_text(self) -> str:
        """Return lines for a terminal or a file: names to the left, figures to the right."""
        cells = [self.columns, *self.rows]
        widths = [max(len(row[n]) for row in cells) for n in range(len(self.columns))]
        lines = [_line(row, widths) for row in cells]
        return "\n".join([self.title, *lines, *(f"  {note}" for note in self.notes)])

    def as_markdown(self) -> str:
        """Return the table for a README, without its title."""
        rule = ["---", *["---:"] * (len(self.columns) - 1)]
        lines = [f"| {' | '.join(row)} |" for row in (self.columns, rule, *self.rows)]
        return "\n".join(lines)


def from_json(values: dict[str, Any]) -> Table:
    """Return the table that as_json() made these values of."""
    return Table(
        values["title"],
        tuple(values["columns"]),
        tuple(tuple(row) for row in values["rows"]),
        tuple(values["notes"]),
    )


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = (
        cell.ljust(width) if n == 0 else cell.rjust(width)
        for n, (cell, width) in enumerate(zip(row, widths, strict=True))
    )
    return "  " + "  ".join([first, *others]).rstrip()


def show_time(seconds: float) -> str:
    """Return a time with three digits and its unit."""
    return _with_unit(seconds * 1e6, ("us", "ms", "s"))


def show_count(count: float) -> str:
    """Return a number with a space between thousands."""
    return "-" if count != count else f"{count:,.0f}".replace(",", " ")


def show_bytes(size: float) -> str:
    """Return an amount of memory with three digits and its unit, of 1000."""
    return f"{size:.0f} B" if abs(size) < 999.5 else _with_unit(size / 1000, ("kB", "MB", "GB"))


def _with_unit(value: float, units: Sequence[str]) -> str:
    if value != value:
        return "-"
    *smaller, greatest = units
    for unit in smaller:
        if abs(value) < 999.5:  # what is more would be shown with four digits
            return f"{_three_digits(value)} {unit}"
        value /= 1000
    return f"{_three_digits(value)} {greatest}"


def _three_digits(value: float) -> str:
    if abs(value) >= 99.95:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 9.995 else f"{value:.2f}"
