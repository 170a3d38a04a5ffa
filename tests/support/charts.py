"""Charts to draw, and what must be there to draw them."""

from math import nan

import pytest

from forkserve.bench.chart import Chart
from forkserve.bench.drawing import draw
from tests.support.requirements import requires_package

MODES = ("iterative", "thread", "process", "prefork", "preforked threads")
OPTIONS = ("", "--spare 4", "--connections-per-child 1000", "--max-connections 512")
COMMANDS = tuple(f"{mode} {options}".strip() for mode in MODES for options in OPTIONS)

LINES = Chart(
    "Throughput",
    "connections at a time",
    "requests/s",
    ("1", "8", "64"),
    {mode: (900.0 + 70 * n, 9000.0 - 900 * n, 17500.0) for n, mode in enumerate(MODES)},
)
LATENCY = Chart(
    "Latency, p99.9",
    "connections at a time",
    "ms",
    ("1", "8", "64"),
    {"prefork": (0.21, 1.7, 9.4), "process": (0.6, nan, 240.0)},
    is_logarithmic=True,
)
CPU = Chart(
    "CPU time of a request",
    "mode",
    "us",
    MODES[:4],
    {"user": (40.0, 61.5, 180.0, 44.0), "system": (51.0, 66.0, 320.0, 57.0)},
    kind="bars",
)
MANY = Chart(
    "Every command",
    "command",
    "requests/s",
    COMMANDS,
    {"requests/s": tuple(1000.0 * n for n in range(1, 21))},
    kind="bars",
)
EVERY_KIND = (LINES, LATENCY, CPU, MANY)


def prepare_drawing() -> None:
    """Go on only where charts are drawn; call it in a fixture of a module.

    For good, matplotlib keeps its fonts open, and would start threads where other tests fork.
    """
    requires_package("matplotlib")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENBLAS_NUM_THREADS", "1")
        assert draw(LINES) is not None
