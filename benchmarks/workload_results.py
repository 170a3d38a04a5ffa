"""What each mode has done under a workload, and who is best: decided from figures alone."""

import math
import os
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from forkserve.bench.conversation import Converse
from forkserve.bench.figures import Ratio, ratio
from forkserve.bench.rounds import LoadFailed, Turn, describe_failures, middle, require_good

CPUS = len(os.sched_getaffinity(0))
BESIDE = 4  # clients at a time beside idle connections
FEW_ROUNDS = 5
CLEAR = 1.1
DEFAULT = "prefork"
NOT_SERVED = "none is served"
EXPECTED_OF_A_CRASH = {"reset", "cut short", "reset while connecting"}
DEATH = re.compile(r"\b(?:worker|connection process) \d+ was killed by SIGSEGV")


@dataclass(frozen=True, slots=True)
class Workload:
    """A handler, who its clients are, and what of a mode decides here."""

    name: str
    title: str
    handler: str
    talk: Converse
    waiting: float = 0.0  # seconds of a connection in which its handler waits
    is_computing: bool = False
    has_slow_readers: bool = False
    has_crashes: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Standing:
    """A mode's figures, one a round and the more the better; without them, why.

    The rounds are those of so many starts of its server.
    """

    figures: tuple[float, ...]
    fault: str = ""
    starts: int = 1


@dataclass(frozen=True, slots=True)
class Decision:
    """Who is best: one, or several whom the rounds do not tell apart, the best median first."""

    best: tuple[str, ...] = ()
    next: str = ""  # the best of those who are surely worse
    over_next: Ratio | None = None
    over_default: Ratio | None = None

    @property
    def is_tie(self) -> bool:
        """Whether there is more than one."""
        return len(self.best) > 1


def decide(standings: Mapping[str, Standing], default: str) -> Decision:
    """Return who is best of those without a fault, and by how much over the others."""
    figures = {name: one.figures for name, one in standings.items() if not one.fault}
    if not figures:
        return Decision()
    order = sorted(figures, key=lambda name: -statistics.median(figures[name]))
    first = figures[order[0]]
    starts = standings[order[0]].starts
    ratios = {name: ratio(first, figures[name], starts=starts) for name in order[1:]}
    worse = [name for name, over in ratios.items() if is_clear(over, len(first))]
    return Decision(
        best=tuple(name for name in order if name not in worse),
        next=worse[0] if worse else "",
        over_next=ratios[worse[0]] if worse else None,
        over_default=ratios.get(default),
    )


def is_clear(over: Ratio, rounds: int) -> bool:
    """Tell whether the first of two is better for sure.

    The interval of a few rounds is too narrow to be believed, so it must leave some room.
    """
    return rounds > 1 and over.low > (1.0 if rounds >= FEW_ROUNDS else CLEAR)


def lost_for_each(failures: Mapping[str, int], deaths: int) -> float:
    """Return how many clients a crash has cost beside the one that asked for it.

    The failures are of all clients, those who asked included; nan without a crash.
    """
    lost = sum(failures.values())
    if lost < deaths:
        raise LoadFailed(f"{deaths} processes died, and only {lost} clients were lost by it")
    return (lost - deaths) / deaths if deaths else math.nan


def unexpected(failures: Mapping[str, int], *, has_crashes: bool) -> dict[str, int]:
    """Return those failures that the workload does not bring with it."""
    expected = EXPECTED_OF_A_CRASH if has_crashes else ()
    return {name: count for name, count in failures.items() if name not in expected}


def count_deaths(said: str) -> int:
    """Return how many processes a server's log says were crashed by a client."""
    return len(DEATH.findall(said))


def places(mode: Sequence[str], cpus: int) -> float:
    """Return how many connections a mode serves at the same time, whatever the clients do."""
    if mode[0] == "iterative":
        return 1
    if mode[0] == "prefork":
        threads = int(mode[mode.index("--threads") + 1]) if "--threads" in mode else 1
        return cpus * threads
    return math.inf


@dataclass(slots=True)
class Outcome:
    """A mode's turns under one workload, and what was wrong with them."""

    turns: list[Turn] = field(default_factory=list)
    fault: str = ""
    deaths: int = 0
    starts: int = 1

    @property
    def failures(self) -> dict[str, int]:
        """What became of those without an answer, over all rounds."""
        names = sorted({name for turn in self.turns for name in turn.failures})
        return {name: sum(turn.failures.get(name, 0) for turn in self.turns) for name in names}

    @property
    def lost(self) -> float:
        """How many other clients each crash has cost."""
        return lost_for_each(self.failures, self.deaths)

    @property
    def standing(self) -> Standing:
        """What it is judged by: answers a second, and whether others were lost."""
        if self.fault:
            return Standing((), self.fault)
        fault = f"loses {self.lost:.1f} for a crash" if self.lost > 0 else ""
        return Standing(tuple(turn.throughput for turn in self.turns), fault, self.starts)

    def middle(self, figure: Callable[[Turn], float]) -> float:
        """Return the median of a figure; nan where there is none to give."""
        return math.nan if self.fault else middle(self.turns, figure)

    def judge(self, name: str, turn: Turn, workload: Workload) -> None:
        """Keep a turn, and note what should not have happened in it; wrong answers end it all."""
        self.turns.append(turn)
        if turn.failures.get("wrong answer"):
            require_good(name, turn)
        wrong = unexpected(turn.failures, has_crashes=workload.has_crashes)
        if wrong or not turn.ok:
            self.fault = describe_failures(wrong) or "no answer"


@dataclass(slots=True)
class Held:
    """A mode with idle connections: their memory, and short connections served beside them."""

    count: int
    each: list[float] = field(default_factory=list)  # bytes, one a round
    outcome: Outcome = field(default_factory=Outcome)

    @property
    def standing(self) -> Standing:
        """What it is judged by: how many connections a byte holds."""
        fault = self.outcome.fault
        return Standing(() if fault else tuple(1 / size for size in self.each), fault)
