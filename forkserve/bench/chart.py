"""A chart and the numbers that it shows."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import floor, isfinite, isnan, log10, nan
from typing import Any, Literal

from forkserve.bench.table import Table


@dataclass(frozen=True, slots=True)
class Chart:
    """Series over the same points: lines where the points are numbers, else groups of bars."""

    title: str
    x_label: str
    y_label: str
    points: tuple[str, ...]
    series: dict[str, tuple[float, ...]] = field(default_factory=dict)  # nan: not measured
    kind: Literal["lines", "bars"] = "lines"
    is_logarithmic: bool = False  # the y axis

    def as_json(self) -> dict[str, Any]:
        """Return the chart as plain values, None for what was not measured: JSON has no nan."""
        return {
            "title": self.title,
            "x_label": self.x_label,
            "y_label": self.y_label,
            "points": list(self.points),
            "series": {
                name: [None if isnan(value) else value for value in values]
                for name, values in self.series.items()
            },
            "kind": self.kind,
            "is_logarithmic": self.is_logarithmic,
        }

    def numbers(self) -> Table:
        """Return its figures as a table, whose rows are whichever are more: points or series."""
        title = f"{self.title} ({self.y_label})"
        figures = [show_all(values) for values in self.series.values()]
        if len(self.series) > len(self.points):
            rows = tuple((name, *shown) for name, shown in zip(self.series, figures, strict=True))
            return Table(title, (f"{self.x_label}:", *self.points), rows)
        rows = tuple(zip(self.points, *figures, strict=True))
        return Table(title, (self.x_label, *self.series), rows)


def from_json(values: dict[str, Any]) -> Chart:
    """Return the chart that as_json() made these values of."""
    return Chart(
        values["title"],
        values["x_label"],
        values["y_label"],
        tuple(values["points"]),
        {
            name: tuple(nan if value is None else value for value in series)
            for name, series in values["series"].items()
        },
        values["kind"],
        values["is_logarithmic"],
    )


def show_all(values: Iterable[float]) -> tuple[str, ...]:
    """Return numbers with three significant digits, whole ones without a point if all are."""
    values = tuple(values)
    are_whole = all(value == int(value) for value in values if isfinite(value))
    return tuple(_show(value, are_whole=are_whole) for value in values)


def _show(value: float, *, are_whole: bool) -> str:
    if not isfinite(value):
        return "-" if isnan(value) else str(value)
    digits = _decimals(value)
    rounded = round(value, digits)
    return f"{rounded:,.{0 if are_whole else max(0, _decimals(rounded))}f}".replace(",", " ")


def _decimals(value: float) -> int:
    """Return how many decimals make three digits; below zero, how many places before the point."""
    return 2 - floor(log10(abs(value))) if value else 2
