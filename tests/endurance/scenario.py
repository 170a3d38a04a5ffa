"""One trial of what forkserve endures: its figures, and the promises that it saw broken.

A scenario is a function of its sizes and of the findings that it adds to. Its module names it in
the tuple `SCENARIOS`, with the sizes for every commit and those for the figures we publish; and
`tests/endurance/__main__.py` names the module::

    @dataclass(frozen=True, slots=True)
    class Sizes:
        kills: int

    def kill_workers(sizes: Sizes, found: Findings) -> None:
        with running(ECHO, "prefork", "-w", "2", expect="worker") as server:
            with Load(server.address) as load:
                ...
            found.count("kills", sizes.kills)
            found.count_load(load)
            found.promise(load.failed() <= sizes.kills, f"more failed: {load.describe_failures()}")

    SCENARIOS = (Scenario("kill-workers", kill_workers, small=Sizes(100), full=Sizes(10_000)),)

A test asserts that nothing is broken: `found = scenario.run(tmp_path)`, then
`assert not found.broken, found.report()`. Further arguments (mode, transport) are bound with
`functools.partial`.
"""

import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from tests.endurance.load import Load, Outcome
from tests.support.waiting import Stopwatch

SizesT = TypeVar("SizesT")


@dataclass(slots=True)
class Findings:
    """What one run of a scenario has found so far; `folder` is its own, for files and sockets."""

    folder: Path
    figures: dict[str, float] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    line: str = ""

    def count(self, name: str, number: float) -> None:
        """Add to a figure, which starts from zero."""
        self.figures[name] = self.figures.get(name, 0) + number

    def slowest(self, name: str, seconds: float) -> None:
        """Keep the greatest of what is measured under this name."""
        self.figures[name] = max(self.figures.get(name, 0.0), round(seconds, 3))

    def promise(self, kept: bool, otherwise: str) -> None:
        """Note a broken promise, unless it is kept."""
        if not kept:
            self.broken.append(otherwise)

    def count_load(self, load: Load) -> None:
        """Add the connections of a load, and how many of them failed in which way."""
        counts = load.counts()
        self.count("connections", counts.total())
        self.count("failed", load.failed())
        for outcome in Outcome:
            if outcome is not Outcome.OK and counts[outcome]:
                self.count(outcome.value, counts[outcome])

    def promise_no_failure(self, load: Load) -> None:
        """Count a load that has ended, and hold every connection of it to have gone well."""
        self.count_load(load)
        self.promise(load.failed() == 0, f"connections failed: {load.describe_failures()}")

    def figures_line(self) -> str:
        """Return the figures as one line."""
        return ", ".join(f"{name} {_shown(number)}" for name, number in self.figures.items())

    def report(self) -> str:
        """Return the broken promises, one after another."""
        return "\n".join(self.broken)


def _shown(number: float) -> str:
    """Write a count with its thousands apart, and anything else with two decimals."""
    return f"{number:,}".replace(",", " ") if isinstance(number, int) else f"{number:.2f}"


@dataclass(frozen=True, slots=True)
class Scenario(Generic[SizesT]):
    """A trial with a name, and its sizes: small for every commit, full for the figures."""

    name: str
    act: Callable[[SizesT, Findings], None]
    small: SizesT
    full: SizesT

    def run(self, folder: Path, *, full: bool = False) -> Findings:
        """Run it in a folder of its own, print one line of figures, and return what was found.

        What cuts it short, a wait that took too long for example, is a broken promise too.
        """
        found, watch = Findings(folder), Stopwatch()
        try:
            self.act(self.full if full else self.small, found)
        except Exception:
            found.broken.append(f"cut short by\n{traceback.format_exc()}")
        verdict = "BROKEN" if found.broken else "kept"
        found.line = f"{self.name}: {verdict} in {watch.seconds:.1f} s: {found.figures_line()}"
        print(found.line, flush=True)  # noqa: T201
        return found
