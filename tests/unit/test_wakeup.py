"""A pipe that ends a wait."""

import os
import select
from collections.abc import Iterator

import pytest

from forkserve.wakeup import Wakeup
from tests.unit.fakes import is_closed


@pytest.fixture
def wakeup() -> Iterator[Wakeup]:
    """Return a wakeup."""
    wakeup = Wakeup()
    yield wakeup
    wakeup.close()


def is_ringing(wakeup: Wakeup) -> bool:
    """Tell whether a wait on it would end."""
    return bool(select.select([wakeup.reader], [], [], 0)[0])


def test_it_is_silent_until_it_is_rung(wakeup: Wakeup) -> None:
    """Nothing wakes who nobody has rung for."""
    assert not is_ringing(wakeup)
    wakeup.ring()
    assert is_ringing(wakeup)


def test_one_drain_silences_many_rings(wakeup: Wakeup) -> None:
    """However often it was rung, one look is enough."""
    for _ in range(10_000):
        wakeup.ring()
    wakeup.drain()
    assert not is_ringing(wakeup)


def test_a_full_pipe_rings_as_well(wakeup: Wakeup) -> None:
    """Nobody waits and nothing is raised when nobody reads (F67)."""
    while True:
        try:
            os.write(wakeup.writer, b"x" * 4096)
        except BlockingIOError:
            break
    wakeup.ring()
    assert is_ringing(wakeup)
    wakeup.drain()
    assert not is_ringing(wakeup)


def test_a_silent_one_can_be_drained(wakeup: Wakeup) -> None:
    """Draining never waits."""
    wakeup.drain()


def test_exactly_one_read_of_rings(wakeup: Wakeup) -> None:
    """As many rings as one read takes are drained too."""
    os.write(wakeup.writer, b"x" * 4096)
    wakeup.drain()
    assert not is_ringing(wakeup)


def test_helpers_do_not_inherit_it(wakeup: Wakeup) -> None:
    """Neither end blocks, nor is passed on by exec."""
    for descriptor in (wakeup.reader, wakeup.writer):
        assert not os.get_inheritable(descriptor)
        assert not os.get_blocking(descriptor)


def test_closing_gives_both_ends_back() -> None:
    """Nothing is left open."""
    wakeup = Wakeup()
    wakeup.close()
    assert is_closed(wakeup.reader)
    assert is_closed(wakeup.writer)


def test_nobody_waits_any_more() -> None:
    """A child may ring for a parent that has just been killed."""
    wakeup = Wakeup()
    os.close(wakeup.reader)
    wakeup.ring()
    os.close(wakeup.writer)
