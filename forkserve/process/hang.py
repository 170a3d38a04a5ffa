"""Who hangs: decided here, from what the scoreboard shows and the time.

Two timeouts with two meanings. A connection's: it has lasted too long, whatever it does. A loop's
(liveness): it came out of its wait and has not come back. A worker that sleeps in its wait is
healthy, and one inside a handler is its connection's business.
"""

import enum
from collections.abc import Sequence
from typing import NamedTuple

from forkserve.scoreboard import Held

INTERRUPT_PAUSE = 0.4  # so long an interrupted connection has to end
DUMP_PAUSE = 0.3  # so long the writing of stacks may take
OFTEN = 0.5
SELDOM = 5.0
LATE = 0.5


class Timeouts(NamedTuple):
    """In seconds; 0 is none."""

    connection: float = 0.0
    liveness: float = 0.0


class Kind(enum.Enum):
    """Where a process serves: in its loop, in threads beside it, or in children of its own."""

    INLINE = enum.auto()
    THREADS = enum.auto()
    CHILDREN = enum.auto()


class Sight(NamedTuple):
    """What is seen of one process; moments are monotonic seconds, 0 if there is none.

    ``run_delay`` is how many seconds it has waited for a CPU in its life; one that is leaving was
    asked to stop, and finishes what it holds.
    """

    pid: int
    held: tuple[Held, ...]
    awake_since: float = 0.0
    last_began: float = 0.0
    stopped_since: float = 0.0
    run_delay: float = 0.0
    is_leaving: bool = False


class Act(enum.Enum):
    """What to do about a process, in the order of the ladder."""

    INTERRUPT = enum.auto()
    DUMP = enum.auto()
    REPLACE = enum.auto()
    KILL = enum.auto()


class Verdict(NamedTuple):
    """What to do about which process, and why."""

    pid: int
    act: Act
    reason: str


class _Suspect(NamedTuple):
    """A loop that may be stuck."""

    key: tuple[float, float]
    since: float
    run_delay: float


class _Case(NamedTuple):
    """How far down the ladder something was taken, and when its next step is due."""

    last: Act
    next_at: float


_NEVER = float("inf")
_PAUSES = {
    Act.INTERRUPT: INTERRUPT_PAUSE,
    Act.DUMP: DUMP_PAUSE,
    Act.REPLACE: DUMP_PAUSE,
    Act.KILL: _NEVER,
}


class Watch:
    """Remembers from look to look; decides, and does nothing else."""

    def __init__(self, timeouts: Timeouts, kind: Kind) -> None:
        self._timeouts = timeouts
        self._kind = kind
        self._planned: float | None = None
        self._excused_until = 0.0
        self._suspects: dict[int, _Suspect] = {}
        self._cases: dict[tuple[int, object], _Case] = {}
        self._seen: set[tuple[int, object]] = set()
        self.wake_at: float | None = None  # when to look again; None: when somebody wakes

    def expect(self, moment: float) -> None:
        """Say that the next look is due then, if nobody rings for it."""
        self._planned = moment

    def look(self, sights: Sequence[Sight], now: float, *, was_rung: bool = False) -> list[Verdict]:
        """Return what to do now; a verdict is given once.

        Who has rung may not have written yet what it begins, so there is a second look.
        """
        self._excuse_if_late(sights, now)
        self._seen = set()
        self._forget_others(sights)
        self.wake_at = now + OFTEN if was_rung else None
        verdicts: list[Verdict] = []
        for sight in sights:
            verdicts += self._judge(sight, now)
        self._cases = {key: case for key, case in self._cases.items() if key in self._seen}
        self._planned = self.wake_at
        return verdicts

    def _excuse_if_late(self, sights: Sequence[Sight], now: float) -> None:
        """Start all patience anew if we were suspended or starved: so may the others have been."""
        planned = self._planned
        if planned is None:  # somebody has just woken us from a nap
            planned = min((_awake_at(sight, now) for sight in sights), default=now)
        if now - planned > LATE:
            self._excused_until = now
            self._suspects.clear()
            self._cases.clear()

    def _forget_others(self, sights: Sequence[Sight]) -> None:
        pids = {sight.pid for sight in sights}
        self._suspects = {pid: one for pid, one in self._suspects.items() if pid in pids}

    def _judge(self, sight: Sight, now: float) -> list[Verdict]:
        if sight.stopped_since:
            return self._judge_stopped(sight, now)
        verdicts = []
        if self._timeouts.connection and self._kind is not Kind.CHILDREN:
            for held in sight.held:
                verdicts += self._judge_connection(sight, held, now)
            if sight.held or sight.awake_since:
                self._look_by(now + self._timeouts.connection)
            verdicts += self._judge_remains(sight, now)
        if self._timeouts.liveness:
            verdicts += self._judge_loop(sight, now)
        return verdicts

    def _judge_stopped(self, sight: Sight, now: float) -> list[Verdict]:
        timeout = self._timeouts.liveness
        since = max(sight.stopped_since, self._excused_until)
        if not timeout:
            return []
        if now < since + timeout:
            self._look_by(since + timeout)
            return []
        reason = f"liveness timeout: it was stopped by a signal {now - since:.1f} s ago"
        return self._step(sight, since, Act.KILL, reason, now)

    def _judge_connection(self, sight: Sight, held: Held, now: float) -> list[Verdict]:
        timeout = self._timeouts.connection
        due = max(held.began + timeout, held.extended)
        if self._excused_until > held.began:
            due = max(due, self._excused_until + timeout)
        if now < due:
            self._look_by(due)
            return []
        key = held.lane, held.began
        case = self._cases.get((sight.pid, key))
        reason = f"connection timeout: {held.peer} is served for {now - held.began:.1f} s"
        if case is None:
            return self._step(sight, key, Act.INTERRUPT, reason, now)
        if case.last is Act.DUMP:
            return self._step(sight, key, Act.KILL, reason, now)
        if case.last is Act.INTERRUPT and self._kind is Kind.THREADS and held.interrupted >= due:
            reason += ", in a thread that does not end"
            return self._step(sight, key, Act.REPLACE, reason, now)
        if case.last is Act.INTERRUPT:
            return self._step(sight, key, Act.DUMP, reason, now)
        return self._step(sight, key, case.last, reason, now)

    def _judge_remains(self, sight: Sight, now: float) -> list[Verdict]:
        """Wait no more for a worker that leaves, if all it holds was given up."""
        cases = [self._cases.get((sight.pid, (held.lane, held.began))) for held in sight.held]
        if not (sight.is_leaving and cases):
            return []
        if any(
            case is None or case.last is not Act.REPLACE or now < case.next_at for case in cases
        ):
            return []
        reason = "nothing is left in it but threads that do not end"
        return self._step(sight, "remains", Act.KILL, reason, now)

    def _judge_loop(self, sight: Sight, now: float) -> list[Verdict]:
        timeout = self._timeouts.liveness
        often = min(OFTEN, timeout / 4)
        is_serving = bool(sight.held) and self._kind is Kind.INLINE
        if not sight.awake_since or is_serving:
            self._suspects.pop(sight.pid, None)
            if sight.awake_since:
                self._look_by(now + min(SELDOM, timeout / 4))
            return []
        key = sight.awake_since, sight.last_began
        suspect = self._suspects.get(sight.pid)
        if suspect is None or suspect.key != key:
            suspect = self._suspects[sight.pid] = _Suspect(key, now, sight.run_delay)
        # What it has waited for a CPU is not its fault.
        patience = timeout + max(0.0, sight.run_delay - suspect.run_delay)
        if now < suspect.since + patience:
            self._look_by(min(suspect.since + patience, now + often))
            return []
        reason = f"liveness timeout: its loop is stuck for {now - suspect.since:.1f} s"
        case = self._cases.get((sight.pid, key))
        return self._step(sight, key, Act.DUMP if case is None else Act.KILL, reason, now)

    def _step(self, sight: Sight, key: object, act: Act, reason: str, now: float) -> list[Verdict]:
        """Go on to an act, when the time of the one before is over; each is done once."""
        case = self._cases.get((sight.pid, key))
        self._seen.add((sight.pid, key))
        if case is not None and (case.last is act or now < case.next_at):
            if now < case.next_at < _NEVER:
                self._look_by(case.next_at)
            return []
        self._cases[sight.pid, key] = case = _Case(act, now + _PAUSES[act])
        if case.next_at != _NEVER:
            self._look_by(case.next_at)
        return [Verdict(sight.pid, act, reason)]

    def _look_by(self, moment: float) -> None:
        self.wake_at = moment if self.wake_at is None else min(self.wake_at, moment)


def _awake_at(sight: Sight, now: float) -> float:
    """Return since when there has been something to look at."""
    return min((sight.awake_since or now, *(held.began for held in sight.held)))
