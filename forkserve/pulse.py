"""Show whether a loop is in its wait, and wake a parent that watches no more."""

import os
from time import monotonic

from forkserve.scoreboard import Slot
from forkserve.signals import INTERRUPT


class Pulse:
    """Written around each wait of a worker: asleep is healthy, awake is expected back.

    A parent of whom nothing is asked sleeps without a timer, and says so in the scoreboard: the
    first who wakes then rings.
    """

    __slots__ = ("_counts", "_is_loop", "_rung", "_seconds", "_slot", "_word")

    def __init__(self, slot: Slot, *, is_loop: bool) -> None:
        self._slot = slot
        self._seconds, self._counts, self._word = slot.seconds, slot.counts, slot.loop
        self._is_loop = is_loop  # else the process has another loop, which is the one to show
        self._rung = 0

    def beside_a_loop(self) -> "Pulse":
        """Return one for threads that wait on their own, while the process has another loop."""
        return Pulse(self._slot, is_loop=False)

    def fall_asleep(self) -> None:
        """Say that the loop waits."""
        if self._is_loop:
            self._seconds[self._word] = 0.0

    def wake_up(self) -> None:
        """Say that it has something to do."""
        if self._is_loop:
            self._seconds[self._word] = monotonic()
        naps = self._counts[0]
        if naps & 1 and naps != self._rung:
            self._rung = naps
            self.ring()

    def ring(self) -> None:
        """Wake the parent; who is not our leader ignores it."""
        os.kill(os.getppid(), INTERRUPT)
