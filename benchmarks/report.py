"""What a benchmark has found: printed as it comes, and kept for who shows all of them."""

import json
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from forkserve.bench import environment
from forkserve.bench.chart import Chart
from forkserve.bench.figures import Ratio
from forkserve.bench.table import Table


@dataclass(slots=True)
class Report:
    """One benchmark's tables, charts and ratios, in the order in which they were found."""

    name: str
    title: str
    text: str  # what is measured and how, one paragraph
    packages: tuple[str, ...] = ()  # whose versions matter
    environment: dict[str, Any] = field(default_factory=dict)
    tables: list[Table] = field(default_factory=list)
    charts: list[Chart] = field(default_factory=list)
    ratios: dict[str, Ratio] = field(default_factory=dict)  # what two runs must agree on
    missing: list[str] = field(default_factory=list)  # what was not measured here, and why

    def begin(self) -> None:
        """Record the surroundings, before any load."""
        sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
        self.environment = environment.describe(self.packages)
        print(f"{self.title}\n  {environment.in_one_line(self.environment)}\n")

    def add(self, table: Table, *charts: Chart) -> None:
        """Print a table and keep it, with what shows the same as charts."""
        print(table.as_text(), end="\n\n")
        self.tables.append(table)
        self.charts += charts

    def miss(self, what: str, remedy: str) -> None:
        """Say that something is not measured here, and what would change that."""
        self.missing.append(f"{what}: missing ({remedy})")
        print(f"  {self.missing[-1]}")

    def add_ratio(self, name: str, ratio: Ratio) -> None:
        """Keep a ratio of two variants; printed where its table is."""
        self.ratios[name] = ratio

    def write(self, path: Path) -> None:
        """Keep all of it in a file of JSON."""
        path.write_text(json.dumps(self.as_json(), indent=1) + "\n")

    def as_json(self) -> dict[str, Any]:
        """Return the report as plain values."""
        return {
            "name": self.name,
            "title": self.title,
            "text": self.text,
            "environment": self.environment,
            "tables": [table.as_json() for table in self.tables],
            "charts": [chart.as_json() for chart in self.charts],
            "ratios": {
                name: {**asdict(ratio), "is_noisy": ratio.is_noisy}
                for name, ratio in self.ratios.items()
            },
            "missing": self.missing,
        }
