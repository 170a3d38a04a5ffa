"""By which figure variants are compared, and how they compare."""

from collections.abc import Sequence
from statistics import median

from forkserve.bench.figures import Ratio, ratio
from forkserve.bench.measured import LEAST, Measured
from forkserve.bench.rounds import Turn, middle

THROUGHPUT, CPU, P99 = "throughput", "CPU a connection", "p99"
EQUAL = 0.05  # a lead that is not worth a word
BUSY_GENERATOR = 0.9


class Score:
    """Compares two variants by one figure."""

    def __init__(self, what: str, concurrency: int) -> None:
        self.what, self.concurrency = what, concurrency
        self._figure = {P99: _quickness, CPU: _thrift, THROUGHPUT: _throughput}[what]

    def of(self, one: Measured) -> float:
        """Return the median of what is compared; more is better."""
        return median(self.rounds(one))

    def rounds(self, one: Measured) -> list[float]:
        """Return what is compared, round by round."""
        return [max(LEAST, self._figure(turn)) for turn in one.turns[self.concurrency]]

    def compare(self, one: Measured, other: Measured) -> Ratio:
        """Return how many times the other's score the one's is."""
        mine, others = self.rounds(one), self.rounds(other)
        count = min(len(mine), len(others))  # after Ctrl-C the last round is not whole
        return ratio(mine[:count], others[:count])

    def is_equal(self, one: Measured, best: Measured) -> bool:
        """Whether one is as good as the best, for all that can be told."""
        found = self.compare(one, best)
        return found.median > 1 - EQUAL or (not found.tells_apart and found.median > 1 - 2 * EQUAL)

    def describe(self, found: Ratio, mine: str, other: str) -> str:
        """Return in words how many times the other's score mine is."""
        if self.what == THROUGHPUT:
            return f"{self.what} is {found} times {other}'s"
        return f"{other}'s {self.what} is {found} times {mine}'s"


def choose_score(able: Sequence[Measured], concurrency: int, *, is_open_loop: bool) -> Score:
    """Compare by what the load left free to differ."""
    fastest = max(able, key=lambda one: middle(one.turns[concurrency], _throughput))
    if is_open_loop:
        return Score(P99, concurrency)
    return Score(CPU if is_limited(fastest, concurrency) else THROUGHPUT, concurrency)


def is_limited(one: Measured, concurrency: int) -> bool:
    """Whether a variant could have done more than it was asked."""
    return middle(one.turns[concurrency], lambda turn: turn.generator) > BUSY_GENERATOR


def _throughput(turn: Turn) -> float:
    return turn.throughput


def _quickness(turn: Turn) -> float:
    return 1 / turn.p99 if turn.p99 else 0.0


def _thrift(turn: Turn) -> float:
    return 1 / turn.cpu_each if turn.cpu_each else 0.0
