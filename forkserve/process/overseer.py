"""See who hangs: read the scoreboard for the watch, and sleep when nobody is awake."""

from collections.abc import Iterable, Mapping

from forkserve.process.cause import run_delay
from forkserve.process.hang import Kind, Sight, Timeouts, Verdict, Watch
from forkserve.scoreboard import Scoreboard, Slot


class Overseer:
    """A leader's eyes on its workers."""

    def __init__(self, timeouts: Timeouts, kind: Kind) -> None:
        self._is_blind = not (timeouts.connection or timeouts.liveness)
        self._watch = Watch(timeouts, kind)
        self._stopped_since: dict[int, float] = {}

    @property
    def wake_at(self) -> float | None:
        """When to look again; None: when somebody wakes."""
        return self._watch.wake_at

    def note_stops(self, changes: Iterable[tuple[int, bool]], now: float) -> None:
        """Remember who was stopped by SIGSTOP, and who goes on."""
        for pid, is_stopped in changes:
            if is_stopped:
                self._stopped_since[pid] = now
            else:
                self._stopped_since.pop(pid, None)

    def look(self, slots: Mapping[int, Slot], now: float) -> list[Verdict]:
        """Return what is to be done about these workers."""
        if self._is_blind:
            return []
        self._stopped_since = {p: at for p, at in self._stopped_since.items() if p in slots}
        return self._watch.look([self._see(pid, slot) for pid, slot in slots.items()], now)

    def _see(self, pid: int, slot: Slot) -> Sight:
        awake_since = slot.awake_since
        delay = run_delay(pid) if awake_since else None
        return Sight(
            pid,
            tuple(slot.held()),
            awake_since,
            slot.last_began(),
            self._stopped_since.get(pid, 0.0),
            delay[1] if delay else 0.0,
        )

    def may_sleep(self, board: Scoreboard, slots: Iterable[Slot]) -> bool:
        """Say, before a wait without a timer, that who wakes must ring; false if one is awake."""
        if self._is_blind or self.wake_at is not None:
            return True
        board.naps |= 1
        return not any(slot.awake_since for slot in slots)

    def wake_up(self, board: Scoreboard) -> None:
        """Say that nobody needs to ring any more."""
        board.naps += board.naps & 1
