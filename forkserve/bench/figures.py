"""What can be said of figures: percentiles, ratios of paired rounds, how sure they are."""

import math
import random
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Ratio:
    """The median of ratios taken pair by pair, with a 95 % bootstrap interval."""

    median: float
    low: float
    high: float

    @property
    def is_noisy(self) -> bool:
        """Whether the same measurement, made again, might differ by more than 10 %.

        It would have an interval of its own, and the difference of two has one √2 times as wide.
        """
        reach = max(self.high - self.median, self.median - self.low)
        return math.sqrt(2) * reach > 0.1 * self.median

    @property
    def tells_apart(self) -> bool:
        """Whether one of the two is better for sure, as far as the rounds can tell."""
        return self.low > 1 or self.high < 1

    def __str__(self) -> str:
        return f"{self.median:5.3f} [{self.low:.3f} {self.high:.3f}]"


def ratio(ours: Sequence[float], theirs: Sequence[float], *, starts: int = 1) -> Ratio:
    """Compare two variants round by round, so that what slows a round down slows both.

    The rounds are those of so many starts of the servers, as many of each. What a start happens to
    get, such as its place in memory, all its rounds have: so starts are drawn, then their rounds.
    """
    pairs = [a / b for a, b in zip(ours, theirs, strict=True)]
    each = len(pairs) // starts
    groups = [pairs[first : first + each] for first in range(0, len(pairs), each)]
    chance = random.Random(1)
    medians = []
    for _ in range(RESAMPLES):
        drawn = chance.choices(groups, k=starts)
        medians.append(statistics.median(p for g in drawn for p in chance.choices(g, k=each)))
    medians.sort()
    low, high = medians[RESAMPLES // 40], medians[-RESAMPLES // 40]
    return Ratio(statistics.median(pairs), low, high)


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return the least of some ordered figures that so great a share of them does not exceed.

    Exact (nearest rank); nan without figures.
    """
    if not ordered:
        return math.nan
    rank = math.ceil(round(share * len(ordered), 6))  # 0.07 * 100 is a little more than 7
    return ordered[max(0, rank - 1)]


@dataclass(frozen=True, slots=True)
class Verdict:
    """One figure beside the most it may be; without a target it is there to compare."""

    what: str
    value: float
    at_most: float | None
    detail: str = ""

    @property
    def holds(self) -> bool:
        """Whether the target is met, or there is none."""
        return self.at_most is None or self.value <= self.at_most

    def __str__(self) -> str:
        if self.at_most is None:
            return f"  {self.what:58} {self.detail}"
        word = "holds" if self.holds else "FALLS SHORT"
        return f"  {self.what:58} {self.detail}  target {self.at_most:g}: {word}"

    def as_json(self) -> dict[str, Any]:
        """Return the verdict as plain values."""
        return {**asdict(self), "holds": self.holds}
