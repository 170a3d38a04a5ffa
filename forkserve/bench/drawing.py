"""Draw a chart as SVG that takes its colours from the page around it."""

import io
import itertools
import textwrap
from collections.abc import Iterable
from math import ceil, floor, isfinite, log10, nan
from typing import Any

from forkserve.bench.chart import Chart
from forkserve.bench.svg import embed

# One unit is one pixel of the page; text is as large as the page's tables.
WIDTH = 640
LINES_HEIGHT = 340
TEXT = 12
SERIES_COLOURS = 8  # the page's CSS defines --series-0 to --series-7, --grid and --axis

_INK, _GRID, _AXIS = "#010101", "#020202", "#030303"
_CSS_OF = {
    _INK: "currentColor",
    _GRID: "var(--grid)",
    _AXIS: "var(--axis)",
    **{f"#0404{n:02x}": f"var(--series-{n})" for n in range(SERIES_COLOURS)},
}
_COLOURS = [colour for colour in _CSS_OF if colour.startswith("#0404")]
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_DASHES = ("-", (0, (6, 2)), (0, (2, 2)), (0, (8, 2, 2, 2)), (0, (4, 1, 1, 1, 1, 1)))
_MOST_COLUMNS = 6
_NAME_WIDTH = 30  # characters of a bar's name in one line
_CHARACTER = 0.6 * TEXT

_SETTINGS = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "forkserve",  # the same chart gives the same ids
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.h_pad": 5 / 72,
    "figure.constrained_layout.w_pad": 2 / 72,
    "font.family": "DejaVu Sans",  # comes with matplotlib; wider than what the page uses
    "font.size": TEXT,
    "text.parse_math": False,
    "text.color": _INK,
    "axes.edgecolor": _AXIS,
    "axes.labelcolor": _INK,
    "axes.axisbelow": True,
    "axes.unicode_minus": False,
    "axes.spines.top": False,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "xtick.color": _AXIS,
    "xtick.labelcolor": _INK,
    "ytick.color": _AXIS,
    "ytick.labelcolor": _INK,
    "ytick.major.size": 0,
    "xtick.major.size": 0,
    "grid.color": _GRID,
    "grid.linewidth": 1,
    "lines.linewidth": 2,
    "lines.markersize": 7,
    "legend.frameon": False,
    "legend.borderpad": 0,
    "legend.borderaxespad": 0.25,
    "legend.columnspacing": 1.4,
}


def draw(chart: Chart, name: str = "chart") -> str | None:
    """Return an SVG element whose ids begin with name, or None without matplotlib."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        return None
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)
        figure = Figure(figsize=(WIDTH / 72, _height(chart) / 72), dpi=72)
        _plot(chart, figure.add_subplot())
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    what = f"{chart.kind.capitalize()}: {chart.y_label} by {chart.x_label}"
    description = f"{what}, for {', '.join(chart.series)}."
    return embed(file.getvalue(), name, chart.title, description, _CSS_OF)


def lies_down(chart: Chart) -> bool:
    """Whether the bars are horizontal: their names would not fit side by side."""
    longest = max(map(len, chart.points), default=0)
    room = WIDTH / max(1, len(chart.points)) / _CHARACTER - 2
    return chart.kind == "bars" and (len(chart.points) > _MOST_COLUMNS or longest > room)


def ticks(lowest: float, highest: float) -> list[float]:
    """Return plain numbers for a logarithmic axis, from one not above lowest to one not below."""
    first, last = floor(log10(lowest)), ceil(log10(highest))
    steps = (1, 2, 5) if last - first <= 3 else (1,)
    found = [step * 10.0**power for power in range(first, last + 1) for step in steps]
    below = max(n for n, tick in enumerate(found) if tick <= lowest)
    above = min(n for n, tick in enumerate(found) if tick >= highest)
    return found[below : max(above, below + 1) + 1]


def show_tick(value: float, _position: object = None) -> str:
    """Return a number as an axis shows it: never as a power of ten."""
    return f"{value:,.10f}".rstrip("0").rstrip(".").replace(",", " ")


def _height(chart: Chart) -> float:
    return 70 + len(chart.points) * _row(chart) if lies_down(chart) else LINES_HEIGHT


def _row(chart: Chart) -> float:
    """Return the height that the name and the bars of a point need where they lie."""
    lines = max((_wrap(point).count("\n") + 1 for point in chart.points), default=1)
    return max(lines * TEXT * 1.25 + 8, len(chart.series) * 12 + 12)


def _wrap(name: str) -> str:
    return textwrap.fill(name, _NAME_WIDTH, break_on_hyphens=False)


def _plot(chart: Chart, axes: Any) -> None:
    if chart.kind == "lines":
        _plot_lines(chart, axes)
    else:
        _plot_bars(chart, axes)
    is_down = lies_down(chart)
    _scale(chart, axes, axes.xaxis if is_down else axes.yaxis)
    _label(chart, axes, is_down=is_down)


def _plot_lines(chart: Chart, axes: Any) -> None:
    for n, (label, values) in enumerate(chart.series.items()):
        style = {"linestyle": _DASHES[n % len(_DASHES)], **_marker(n)}
        axes.plot(range(len(values)), _drawn(values), label=label, clip_on=False, **style)
    axes.set_xticks(range(len(chart.points)), chart.points)
    axes.set_xlim(-0.3, len(chart.points) - 0.7)


def _plot_bars(chart: Chart, axes: Any) -> None:
    is_down = lies_down(chart)
    bars = axes.barh if is_down else axes.bar
    thickness = _thickness(chart)
    for n, (label, values) in enumerate(chart.series.items()):
        shift = (n - (len(chart.series) - 1) / 2) * thickness
        middles = [at + shift for at in range(len(values))]
        ends = _drawn(values)
        if chart.is_logarithmic:  # has no 0 that a bar could begin at
            x, y = (ends, middles) if is_down else (middles, ends)
            axes.plot(x, y, label=label, linestyle="none", clip_on=False, **_marker(n))
        else:
            bars(middles, ends, thickness * 0.9, label=label, color=_colour(n))
    _name_bars(chart, axes)


def _thickness(chart: Chart) -> float:
    """Return how much of a point's room a bar takes, with its share of the gap."""
    is_down = lies_down(chart)
    room = _row(chart) if is_down else WIDTH / max(1, len(chart.points))
    return min(0.76 / max(1, len(chart.series)), (18 if is_down else 56) / room)


def _name_bars(chart: Chart, axes: Any) -> None:
    middles, last = range(len(chart.points)), max(1, len(chart.points)) - 0.5
    if lies_down(chart):
        axes.set_yticks(middles, map(_wrap, chart.points))
        axes.set_ylim(last, -0.5)
    else:
        axes.set_xticks(middles, chart.points)
        axes.set_xlim(-0.5, last)


def _colour(n: int) -> str:
    return _COLOURS[n % SERIES_COLOURS]


def _marker(n: int) -> dict[str, str]:
    return {"color": _colour(n), "marker": _MARKERS[n % len(_MARKERS)]}


def _drawn(values: Iterable[float]) -> list[float]:
    """Return what has a place in a chart, and nan for a gap."""
    return [value if isfinite(value) else nan for value in values]


def _scale(chart: Chart, axes: Any, axis: Any) -> None:
    """Let the axis of values begin at 0, or at a tick below the smallest where logarithmic."""
    values = [v for v in itertools.chain(*chart.series.values()) if isfinite(v)]
    positive = [value for value in values if value > 0]
    set_limits = axes.set_xlim if axis is axes.xaxis else axes.set_ylim
    axis.grid(visible=True)
    if chart.is_logarithmic and positive:
        shown = ticks(min(positive), max(positive))
        axis._set_axes_scale("log")
        axis.set_ticks(shown)
        axis.set_ticks([], minor=True)
        set_limits(shown[0], shown[-1])
    else:
        highest = max(positive, default=1.0)
        set_limits(min([*values, 0.0]), highest * 1.04)
        axis.get_major_locator().set_params(nbins=6)
    axis.set_major_formatter(show_tick)


def _label(chart: Chart, axes: Any, *, is_down: bool) -> None:
    """Say what the axes are, the one of values above its end, and the series above all."""
    if is_down:
        axes.set_xlabel(chart.y_label)
        axes.annotate(
            chart.x_label,
            xy=(0, 1),
            xycoords="axes fraction",
            xytext=(-4, 6),
            textcoords="offset points",
            horizontalalignment="right",
        )
    else:
        axes.set_xlabel(chart.x_label)
        axes.set_title(chart.y_label, loc="left", fontsize=TEXT)
    if len(chart.series) > 1:
        axes.figure.legend(loc="outside upper left", ncols=_legend_columns(list(chart.series)))


def _legend_columns(names: list[str]) -> int:
    """Return how many names fit side by side: all, or as many as the longest leaves room for."""
    widths = [len(name) * _CHARACTER + 4.2 * TEXT for name in names]
    return len(names) if sum(widths) <= WIDTH else max(1, int(WIDTH // max(widths)))
