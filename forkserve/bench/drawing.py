"""Draw a chart as SVG that follows the colours of the page around it."""

from forkserve.bench.chart import Chart


def draw(chart: Chart, name: str = "chart") -> str | None:
    """Return an SVG element whose ids begin with name, or None without matplotlib."""
    return None
