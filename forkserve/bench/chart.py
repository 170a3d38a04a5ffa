"""A chart and the numbers that it shows."""

from dataclasses import dataclass, field
from typing import Any, Literal


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
        """Return the chart as plain values."""
        return {
            "title": self.title,
            "x_label": self.x_label,
            "y_label": self.y_label,
            "points": list(self.points),
            "series": {name: list(values) for name, values in self.series.items()},
            "kind": self.kind,
            "is_logarithmic": self.is_logarithmic,
        }
