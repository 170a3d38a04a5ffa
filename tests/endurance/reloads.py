"""Reload under load, with code that is right and code that is broken."""

from typing import Any

from tests.endurance.scenario import Scenario

SCENARIOS: tuple[Scenario[Any], ...] = ()
