"""Figures: percentiles are exact, and an interval holds what is true as often as it says."""

import math
import random
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forkserve.bench.figures import Ratio, percentile, ratio

FIGURES = st.lists(st.floats(0, 1e6), min_size=1, max_size=300)


@given(FIGURES, st.sampled_from(["0.5", "0.9", "0.99", "0.999", "1"]))
def test_percentile_is_the_least_that_a_share_does_not_exceed(
    figures: list[float], share: str
) -> None:
    """As many figures as the share says are no greater, and no smaller figure will do."""
    ordered = sorted(figures)
    found = percentile(ordered, float(share))
    needed = Fraction(share) * len(ordered)
    assert sum(figure <= found for figure in ordered) >= needed
    assert sum(figure < found for figure in ordered) < needed
    assert found in ordered


@pytest.mark.parametrize("size", [100, 700, 1000, 5700, 123_000])
def test_percentile_of_round_sizes(size: int) -> None:
    """What floating point makes of a share does not move a percentile by one place."""
    assert percentile(range(1, size + 1), 0.99) == size * 99 // 100
    assert percentile(range(1, size + 1), 0.07) == math.ceil(Fraction(7, 100) * size)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.999, 1.0])
def test_percentile_of_one(share: float) -> None:
    """One figure is every percentile."""
    assert percentile([7.0], share) == 7.0


def test_percentile_of_none() -> None:
    """Without figures there is no percentile."""
    assert math.isnan(percentile([], 0.5))


def covers(seed: int, truth: float, rounds: int) -> bool:
    """Tell whether the interval of noisy rounds covers the truth."""
    chance = random.Random(seed)
    slowness = [chance.uniform(1, 3) for _ in range(rounds)]  # of a round, for both
    ours = [slow * truth * chance.lognormvariate(0, 0.05) for slow in slowness]
    theirs = [slow * chance.lognormvariate(0, 0.05) for slow in slowness]
    found = ratio(ours, theirs)
    return found.low <= truth <= found.high


@pytest.mark.parametrize("truth", [0.5, 1.0, 3.0])
def test_interval_covers_the_truth(truth: float) -> None:
    """About 95 of 100 intervals hold the true ratio, however slow single rounds were."""
    assert sum(covers(seed, truth, rounds=11) for seed in range(60)) >= 50


@settings(max_examples=20)
@given(st.lists(st.floats(0.1, 100), min_size=1, max_size=15), st.floats(0.1, 10))
def test_ratio_without_noise_is_exact(theirs: list[float], truth: float) -> None:
    """What slows a round down for both is not in the ratio."""
    found = ratio([figure * truth for figure in theirs], theirs)
    assert [found.low, found.median, found.high] == pytest.approx([truth] * 3)
    assert not found.is_noisy


@settings(max_examples=20)
@given(st.lists(st.tuples(st.floats(0.1, 100), st.floats(0.1, 100)), min_size=1, max_size=15))
def test_ratio_lies_in_its_interval(pairs: list[tuple[float, float]]) -> None:
    """The same rounds give the same interval, with the median within."""
    ours, theirs = [list(column) for column in zip(*pairs, strict=True)]
    found = ratio(ours, theirs)
    assert found.low <= found.median <= found.high
    assert found == ratio(ours, theirs)


def test_ratio_needs_pairs() -> None:
    """A round that one of them lacks makes no ratio."""
    with pytest.raises(ValueError, match="shorter"):
        ratio([1.0, 2.0], [1.0])


@pytest.mark.parametrize(
    ("found", "is_noisy", "tells_apart"),
    [
        (Ratio(1.0, 0.95, 1.05), False, False),
        (Ratio(1.0, 0.89, 1.1), True, False),
        (Ratio(2.0, 1.9, 2.1), False, True),
        (Ratio(1.0, 0.85, 1.01), True, False),
        (Ratio(0.5, 0.4, 0.6), True, True),
        (Ratio(0.9, 0.84, 0.96), False, True),
        (Ratio(0.9, 0.85, 1.0), True, False),
        (Ratio(1.1, 1.03, 1.17), False, True),
        (Ratio(1.0, 0.93, 1.07), False, False),
        (Ratio(1.0, 0.93, 1.072), True, False),
        (Ratio(1.0, 0.99, 1.15), True, False),
    ],
)
def test_what_a_ratio_says(found: Ratio, is_noisy: bool, tells_apart: bool) -> None:
    """Noise is what may be over 10 % off when measured again; without 1 it tells two apart."""
    assert (found.is_noisy, found.tells_apart) == (is_noisy, tells_apart)


def test_starts_that_differ() -> None:
    """Where the rounds of a start agree and the starts do not, the interval covers the starts."""
    ours = [
        start + 0.001 * number for start in (0.75, 0.75, 0.75, 0.75, 0.85) for number in range(3)
    ]
    theirs = [1.0] * 15
    by_rounds, by_starts = ratio(ours, theirs), ratio(ours, theirs, starts=5)
    assert by_starts.median == by_rounds.median
    assert by_rounds.high < 0.76
    assert by_starts.high >= 0.85


def test_ratio_shows_its_interval() -> None:
    """A ratio is never shown without its interval."""
    assert str(Ratio(1.5, 1.25, 1.75)) == "1.500 [1.250 1.750]"
