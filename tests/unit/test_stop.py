"""How urgently a process was asked to stop."""

from forkserve.stop import Stop


def flags(stop: Stop) -> tuple[bool, bool, bool]:
    """Return what is set."""
    return stop.is_set, stop.is_hurried, stop.is_retired


def test_nobody_has_asked() -> None:
    """A stop begins with nothing set."""
    assert flags(Stop()) == (False, False, False)


def test_a_request_is_not_a_hurry() -> None:
    """What is queued is still accepted, and what runs may finish."""
    stop = Stop()
    stop.request()
    assert flags(stop) == (True, False, False)


def test_a_hurry_is_a_stop_too() -> None:
    """Whoever only looks for a stop sees it."""
    stop = Stop()
    stop.hurry()
    assert flags(stop) == (True, True, False)


def test_retiring_is_a_stop_too() -> None:
    """Whoever retires finishes what runs."""
    stop = Stop()
    stop.retire()
    assert flags(stop) == (True, False, True)


def test_nothing_takes_a_hurry_back() -> None:
    """A milder word after a hurry changes nothing."""
    stop = Stop()
    stop.hurry()
    stop.request()
    stop.retire()
    assert flags(stop) == (True, True, True)
