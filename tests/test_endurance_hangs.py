"""Hangs: what stands still is cut in time with the evidence in the log, and nothing else is."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.endurance import hangs
from tests.endurance.scenario import Scenario

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(120)]


def each(scenarios: Sequence[Scenario[Any]]) -> pytest.MarkDecorator:
    """Try each of these scenarios."""
    return pytest.mark.parametrize("scenario", scenarios, ids=[one.name for one in scenarios])


# Every third: each way and each mode is among them. The full run has them all.
@each(hangs.HANDLERS_HANG[::3])
def test_handler_hangs(scenario: Scenario[Any], tmp_path: Path) -> None:
    """A connection past its timeout is cut, and the log says where its handler was (F49, F50)."""
    found = scenario.run(tmp_path)
    assert not found.broken, found.report()


@each(hangs.PROCESSES_STOPPED)
def test_process_is_stopped(scenario: Scenario[Any], tmp_path: Path) -> None:
    """A worker or a connection's process that somebody has stopped is replaced (F51)."""
    found = scenario.run(tmp_path)
    assert not found.broken, found.report()


@each(hangs.LOOPS_HANG)
def test_loop_hangs(scenario: Scenario[Any], tmp_path: Path) -> None:
    """A worker whose own loop hangs in an adopted server's method is replaced (F49)."""
    found = scenario.run(tmp_path)
    assert not found.broken, found.report()


@each(hangs.STOPS)
def test_stop_while_a_handler_hangs(scenario: Scenario[Any], tmp_path: Path) -> None:
    """A stop waits for no connection beyond its own timeout, however long it may drain (F90)."""
    found = scenario.run(tmp_path)
    assert not found.broken, found.report()


@each(hangs.WORKERS_RETIRE)
def test_worker_retires(scenario: Scenario[Any], tmp_path: Path) -> None:
    """A worker with a thread that cannot be ended leaves once its replacement is ready (F54)."""
    found = scenario.run(tmp_path)
    assert not found.broken, found.report()


@each(hangs.NO_HANGS)
def test_no_false_kill(scenario: Scenario[Any], tmp_path: Path) -> None:
    """Long work, suspended or starved processes and a jumping clock are no hang (F52)."""
    found = scenario.run(tmp_path)
    assert not found.broken, found.report()
