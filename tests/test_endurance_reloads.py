"""Reload under load: no connection fails, whether the new code is right or broken."""

from pathlib import Path
from typing import Any

import pytest

from tests.endurance import reloads
from tests.endurance.scenario import Scenario

pytestmark = pytest.mark.timeout(300)


def scenarios(*chosen: tuple[Scenario[Any], ...]) -> pytest.MarkDecorator:
    """Run the test once for each of these scenarios."""
    every = [one for group in chosen for one in group]
    return pytest.mark.parametrize("scenario", every, ids=[one.name for one in every])


def hold(scenario: Scenario[Any], folder: Path) -> None:
    """Fail unless the scenario finds every promise kept."""
    found = scenario.run(folder)
    assert not found.broken, found.report()


@pytest.mark.heavy
@scenarios(reloads.GOOD, reloads.GOOD_ADOPTED)
def test_reloads_lose_no_connection(scenario: Scenario[Any], tmp_path: Path) -> None:
    """Reloads one after another and in a storm fail no connection, and the last code serves."""
    hold(scenario, tmp_path)


@pytest.mark.heavy
@scenarios(reloads.BROKEN, reloads.BROKEN_ADOPTED)
def test_broken_code_harms_nobody(scenario: Scenario[Any], tmp_path: Path) -> None:
    """Code broken in whatever way is reported in time, all workers go on (F72, F73, F74)."""
    hold(scenario, tmp_path)


@pytest.mark.heavy
@scenarios(reloads.LEFT_THREADS)
def test_thread_left_by_the_import(scenario: Scenario[Any], tmp_path: Path) -> None:
    """Code whose import leaves a thread running is served, and the log warns of it."""
    hold(scenario, tmp_path)


@scenarios(reloads.EDITS)
def test_edits_of_the_same_size_and_second(scenario: Scenario[Any], tmp_path: Path) -> None:
    """New code is served although neither the size nor the time of its file has changed."""
    hold(scenario, tmp_path)
