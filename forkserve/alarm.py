"""The one timer that a signal of this process tells of."""

import enum
import signal
from time import monotonic

from forkserve import signals


class Due(enum.Enum):
    """What the alarm may be set for."""

    DRAIN_TIMEOUT = enum.auto()
    OVERDUE_CHILDREN = enum.auto()


class Alarm:
    """Several moments, one SIGALRM: for a process that may not be waiting when one has come."""

    def __init__(self) -> None:
        self._moments: dict[Due, float] = {}
        self._is_final = False

    def set(self, what: Due, moment: float) -> None:
        """Have the signal come then, and not at the moment that was set for this before."""
        self._moments[what] = moment
        self._arm()

    def take_due(self, now: float) -> list[Due]:
        """Return what is due, which is then not set any more."""
        due = [what for what, moment in self._moments.items() if moment <= now]
        for what in due:
            del self._moments[what]
        self._arm()
        return due

    def make_final(self, seconds: float) -> None:
        """End the process by the next alarm, wherever it is, and let nobody set another."""
        self._is_final = True
        signals.install({signal.SIGALRM: signal.SIG_DFL})
        signal.setitimer(signal.ITIMER_REAL, seconds)

    def clear(self) -> None:
        """Let none come any more."""
        self._moments.clear()
        self._arm()

    def _arm(self) -> None:
        if self._is_final:
            return
        left = 0.0
        if self._moments:
            left = max(0.001, min(self._moments.values()) - monotonic())
        signal.setitimer(signal.ITIMER_REAL, left)
