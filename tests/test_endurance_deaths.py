"""Deaths within a server, and forks that fail: who goes on, and how soon all is well again."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.endurance import deaths
from tests.endurance.scenario import Scenario

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(120)]


def each(scenarios: Sequence[Scenario[Any]]) -> pytest.MarkDecorator:
    """Try each of these scenarios."""
    return pytest.mark.parametrize("scenario", scenarios, ids=[one.name for one in scenarios])


@each(deaths.WORKERS_KILLED)
def test_workers_die_under_load(scenario: Scenario[Any], tmp_path: Path) -> None:
    """Each death costs at most what the dead worker served; nothing grows or stays (F57, F62)."""
    found = scenario.run(tmp_path)
    assert not found.broken, found.report()


@each(deaths.FORKS_FAILED)
def test_forks_fail(scenario: Scenario[Any], tmp_path: Path) -> None:
    """A server that cannot fork goes on with what it has, and is soon itself (F17, F18, F37)."""
    found = scenario.run(tmp_path)
    assert not found.broken, found.report()


@each(deaths.SUPERVISORS_KILLED)
def test_supervisor_is_killed(scenario: Scenario[Any], tmp_path: Path) -> None:
    """Nothing outlives a killed supervisor for long, and its port is free again (F64)."""
    found = scenario.run(tmp_path)
    assert not found.broken, found.report()


@each(deaths.LEADERS_KILLED)
def test_leader_is_killed(scenario: Scenario[Any], tmp_path: Path) -> None:
    """A killed leader has a successor that serves at once, and its workers leave in time."""
    found = scenario.run(tmp_path)
    assert not found.broken, found.report()
