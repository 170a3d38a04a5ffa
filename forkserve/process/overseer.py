"""See who hangs: read the scoreboard for the watch, and sleep when nobody is awake."""

from collections.abc import Collection, Iterable, Mapping

from forkserve.process.cause import run_delay
from forkserve.process.hang import Kind, Sight, Timeouts, Verdict, Watch
from forkserve.scoreboard import Scoreboard, Slot


class Overseer:
    """A leader's eyes on its workers."""

    def __init__(self, timeouts: Timeouts, kind: Kind) -> None:
        self._is_blind = not (timeouts.connection or timeouts.liveness)
        self._watch = Watch(timeouts, kind)
        self._stopped_since: dict[int, float] = {}
        self._was_napping = False

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

    def look(
        self, slots: Mapping[int, Slot], leaving: Collection[int], now: float
    ) -> list[Verdict]:
        """Return what is to be done about these workers, some of which were asked to stop."""
        if self._is_blind:
            return []
        self._stopped_since = {p: at for p, at in self._stopped_since.items() if p in slots}
        was_rung, self._was_napping = self._was_napping, False
        sights = [self._see(pid, slot, pid in leaving) for pid, slot in slots.items()]
        return self._watch.look(sights, now, was_rung=was_rung)

    def _see(self, pid: int, slot: Slot, is_leaving: bool) -> Sight:
        awake_since = slot.awake_since
        delay = run_delay(pid) if awake_since else None
        return Sight(
            pid,
            tuple(slot.held()),
            awake_since,
            slot.last_began(),
            self._stopped_since.get(pid, 0.0),
            delay[1] if delay else 0.0,
            is_leaving,
        )

    def wants_nap(self) -> bool:
        """Whether nobody is awake, as far as was seen."""
        return not self._is_blind and self.wake_at is None

    def begin_nap(self, board: Scoreboard) -> None:
        """Say that who wakes must ring; who has woken before will be seen by one more look."""
        board.naps |= 1

    def end_nap(self, board: Scoreboard) -> None:
        """Say that nobody needs to ring any more."""
        self._was_napping = bool(board.naps & 1)
        board.naps += board.naps & 1
