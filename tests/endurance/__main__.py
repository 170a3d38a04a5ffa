"""Run the trials at full size and write down the figures: `python3 -m tests.endurance`."""

import argparse
import os
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import forkserve
from tests import conftest
from tests.endurance import deaths, hangs, reloads, storms
from tests.endurance.scenario import Findings, Scenario
from tests.support import server

MODULES = (reloads, deaths, hangs, storms)
KEPT = "all promises kept"


def main() -> int:
    """Run what the arguments select, and return 0 if every promise was kept."""
    arguments = _parse_arguments()
    conftest.pytest_configure()
    report = _Report()
    report.add(_describe_environment(quick=arguments.quick))
    broken = []
    for scenario in _select(arguments.names):
        found = _run(scenario, full=not arguments.quick)
        report.lines.append(found.line)
        broken += [f"{scenario.name}: {promise}" for promise in found.broken]
    report.add("\n".join(["broken promises:", *broken]) if broken else KEPT)
    if arguments.save:
        arguments.save.write_text("\n".join(report.lines) + "\n")
    return 1 if broken else 0


class _Report:
    """The lines so far, printed as they come."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def add(self, line: str) -> None:
        """Print a line and keep it."""
        print(line, flush=True)  # noqa: T201
        self.lines.append(line)


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python3 -m tests.endurance", description=__doc__)
    parser.add_argument("names", nargs="*", help="scenarios, or how their names begin [all]")
    parser.add_argument("--quick", action="store_true", help="the sizes for every commit")
    parser.add_argument("--save", type=Path, metavar="FILE", help="write the report there too")
    parser.add_argument("--list", action="store_true", help="only name the scenarios")
    arguments = parser.parse_args()
    if arguments.list:
        print(*(one.name for one in _select(arguments.names)), sep="\n")  # noqa: T201
        raise SystemExit(0)
    return arguments


def _select(names: Sequence[str]) -> list[Scenario[Any]]:
    """Return the scenarios that begin with any of these names; all if there is no name."""
    every: list[Scenario[Any]] = [one for module in MODULES for one in module.SCENARIOS]
    chosen = [one for one in every if not names or one.name.startswith(tuple(names))]
    if not chosen:
        raise SystemExit(f"no scenario begins with {' or '.join(names)}")
    return chosen


def _describe_environment(*, quick: bool) -> str:
    size = "the sizes for every commit" if quick else "full size"
    cpus = len(os.sched_getaffinity(0))
    python = platform.python_version()
    kernel = f"{platform.system()} {platform.release()}"
    when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    return (
        f"forkserve {forkserve.__version__}, Python {python}, {kernel}, {cpus} CPUs, {when}, {size}"
    )


def _run(scenario: Scenario[Any], *, full: bool) -> Findings:
    """Run a scenario, and hold it to the epilogue of every test."""
    with tempfile.TemporaryDirectory(prefix="endurance-") as folder:
        try:
            found = scenario.run(Path(folder), full=full)
        except pytest.skip.Exception as skipped:
            found = Findings(Path(folder), line=f"{scenario.name}: skipped: {skipped}")
            print(found.line, flush=True)  # noqa: T201
        found.broken += _look_after()
    return found


def _look_after() -> list[str]:
    """Return what the servers of a scenario left behind or complained of."""
    servers = server.started()
    for one in servers:
        if one.status is None:
            one.destroy()
    left = conftest._children_left(patient=any(one.ended_by_force for one in servers))
    complaints = [
        line for one in servers for line in conftest.complaints(one.stderr_so_far(), one.expect)
    ]
    return [f"left behind: {process}" for process in left] + complaints


if __name__ == "__main__":
    sys.exit(main())
