"""Signals in any order and at any moment, and life as PID 1: always the documented end."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.endurance import storms
from tests.endurance.scenario import Scenario

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(120)]


def each(scenarios: Sequence[Scenario[Any]]) -> pytest.MarkDecorator:
    """Try each of these scenarios."""
    return pytest.mark.parametrize("scenario", scenarios, ids=[one.name for one in scenarios])


@each(storms.STORMS)
def test_storm_of_signals(scenario: Scenario[Any], tmp_path: Path) -> None:
    """A storm of signals ends neither server nor client, and then one TERM does (F66)."""
    found = scenario.run(tmp_path)
    assert not found.broken, found.report()


@each(storms.TWO_SIGNALS)
def test_two_signals(scenario: Scenario[Any], tmp_path: Path) -> None:
    """With a TERM among them the server ends with 0; without, it goes on until one comes (F71)."""
    found = scenario.run(tmp_path)
    assert not found.broken, found.report()


@each(storms.POINTS)
def test_term_at_a_system_call(scenario: Scenario[Any], tmp_path: Path) -> None:
    """A TERM that comes with whichever system call ends the server with 0, nothing left (F70)."""
    found = scenario.run(tmp_path)
    assert not found.broken, found.report()


@each(storms.FIRST_PROCESS)
def test_first_process_of_a_container(scenario: Scenario[Any], tmp_path: Path) -> None:
    """As PID 1 the server obeys, collects strangers, and leaves others alone (F58-F61)."""
    found = scenario.run(tmp_path)
    assert not found.broken, found.report()
