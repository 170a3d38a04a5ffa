"""How many threads a worker adds when all it has are held up."""

import pytest

from forkserve.strategies.threaded import STEP, STUCK_TICKS, lanes_to_add


@pytest.mark.parametrize(
    ("stuck_ticks", "lanes", "most", "added"),
    [
        pytest.param(0, 2, 100, 0, id="nobody is stuck"),
        pytest.param(STUCK_TICKS - 1, 2, 100, 0, id="one tick is no proof"),
        pytest.param(STUCK_TICKS, 2, 100, 2, id="twice as many"),
        pytest.param(STUCK_TICKS + 5, 8, 100, 8, id="and again"),
        pytest.param(STUCK_TICKS, 64, 1024, STEP, id="but not too many at a time"),
        pytest.param(STUCK_TICKS, 60, 64, 4, id="up to the bound"),
        pytest.param(STUCK_TICKS, 64, 64, 0, id="at the bound"),
        pytest.param(STUCK_TICKS, 65, 64, 0, id="over the bound"),
        pytest.param(STUCK_TICKS, 1, 1, 0, id="a single one"),
    ],
)
def test_how_many_lanes_to_add(stuck_ticks: int, lanes: int, most: int, added: int) -> None:
    """Threads double while every one of them is held up, by a step and to a bound at most."""
    assert lanes_to_add(stuck_ticks, lanes, most) == added
