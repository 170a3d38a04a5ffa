"""Who hangs: decided here, from what the scoreboard shows and the time.

Two timeouts with two meanings. A connection's: it has lasted too long, whatever it does. A loop's
(liveness): it came out of its wait and has not come back. A worker that sleeps in its wait is
healthy, and one inside a handler is its connection's business.
"""

import enum
from collections.abc import Sequence
from typing import NamedTuple

from forkserve.scoreboard import Held

DUMP_AFTER = 0.4  # from the deadline, when the connection was interrupted
KILL_AFTER = 0.7
EVIDENCE = 0.3  # from the dump of a loop that hangs
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

    ``run_delay`` is how many seconds it has waited for a CPU in its life.
    """

    pid: int
    held: tuple[Held, ...]
    awake_since: float = 0.0
    last_began: float = 0.0
    stopped_since: float = 0.0
    run_delay: float = 0.0


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
    key: tuple[float, float]
    since: float
    run_delay: float


class Watch:
    """Remembers from look to look; decides, and does nothing else."""

    def __init__(self, timeouts: Timeouts, kind: Kind) -> None:
        self._timeouts = timeouts
        self._kind = kind
        self._planned: float | None = None
        self._excused_until = 0.0
        self._suspects: dict[int, _Suspect] = {}
        self._done: dict[tuple[int, Act, object], None] = {}
        self.wake_at: float | None = None  # when to look again; None: when somebody wakes

    def expect(self, moment: float) -> None:
        """Say that the next look is due then, if nobody rings for it."""
        self._planned = moment

    def look(self, sights: Sequence[Sight], now: float) -> list[Verdict]:
        """Return what to do now; a verdict is given once."""
        self._excuse_if_late(sights, now)
        self._forget_others(sights)
        self.wake_at = None
        verdicts: list[Verdict] = []
        for sight in sights:
            verdicts += self._judge(sight, now)
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

    def _forget_others(self, sights: Sequence[Sight]) -> None:
        pids = {sight.pid for sight in sights}
        self._suspects = {pid: one for pid, one in self._suspects.items() if pid in pids}
        self._done = {key: None for key in self._done if key[0] in pids}

    def _judge(self, sight: Sight, now: float) -> list[Verdict]:
        if sight.stopped_since:
            return self._judge_stopped(sight, now)
        verdicts = []
        if self._timeouts.connection and self._kind is not Kind.CHILDREN:
            for held in sight.held:
                verdicts += self._judge_connection(sight, held, now)
            if sight.held or sight.awake_since:
                self._look_by(now + self._timeouts.connection)
        if self._timeouts.liveness:
            verdicts += self._judge_loop(sight, now)
        return verdicts

    def _judge_stopped(self, sight: Sight, now: float) -> list[Verdict]:
        timeout = self._timeouts.liveness
        if not timeout:
            return []
        since = max(sight.stopped_since, self._excused_until)
        if now < since + timeout:
            self._look_by(since + timeout)
            return []
        return self._once(
            sight, Act.KILL, since, f"was stopped for {timeout:g} s (liveness timeout)"
        )

    def _judge_connection(self, sight: Sight, held: Held, now: float) -> list[Verdict]:
        timeout = self._timeouts.connection
        due = max(held.began + timeout, held.extended)
        if self._excused_until > held.began:
            due = max(due, self._excused_until + timeout)
        if now < due:
            self._look_by(due)
            return []
        key = held.lane, held.began
        reason = f"connection timeout: {held.peer} is served for {now - held.began:.1f} s"
        if now < due + DUMP_AFTER:
            self._look_by(due + DUMP_AFTER)
            return self._once(sight, Act.INTERRUPT, key, reason)
        if self._kind is Kind.THREADS and held.interrupted >= due - LATE:
            return self._once(sight, Act.REPLACE, key, f"{reason}, in a thread that does not end")
        verdicts = self._once(sight, Act.DUMP, key, reason)
        if now < due + KILL_AFTER:
            self._look_by(due + KILL_AFTER)
            return verdicts
        return verdicts + self._once(sight, Act.KILL, key, reason)

    def _judge_loop(self, sight: Sight, now: float) -> list[Verdict]:
        timeout = self._timeouts.liveness
        often = min(OFTEN, timeout / 4)
        is_serving = bool(sight.held) and self._kind is Kind.INLINE
        if not sight.awake_since or is_serving:
            self._suspects.pop(sight.pid, None)
            if sight.awake_since:
                self._look_by(now + (often if not is_serving else min(SELDOM, timeout / 4)))
            return []
        key = sight.awake_since, sight.last_began
        suspect = self._suspects.get(sight.pid)
        if suspect is None or suspect.key != key or self._is_starved(suspect, sight, now):
            suspect = self._suspects[sight.pid] = _Suspect(key, now, sight.run_delay)
        due = suspect.since + timeout
        if now < due:
            self._look_by(min(due, now + often))
            return []
        reason = f"liveness timeout: its loop is stuck for {now - suspect.since:.1f} s"
        verdicts = self._once(sight, Act.DUMP, key, reason)
        if now < due + EVIDENCE:
            self._look_by(due + EVIDENCE)
            return verdicts
        return verdicts + self._once(sight, Act.KILL, key, reason)

    def _is_starved(self, suspect: _Suspect, sight: Sight, now: float) -> bool:
        """Whether it has mostly waited for a CPU, since it became suspect."""
        return sight.run_delay - suspect.run_delay > max(0.1, (now - suspect.since) / 2)

    def _once(self, sight: Sight, act: Act, key: object, reason: str) -> list[Verdict]:
        if (sight.pid, act, key) in self._done:
            return []
        self._done[sight.pid, act, key] = None
        return [Verdict(sight.pid, act, reason)]

    def _look_by(self, moment: float) -> None:
        self.wake_at = moment if self.wake_at is None else min(self.wake_at, moment)


def _awake_at(sight: Sight, now: float) -> float:
    """Return since when there has been something to look at."""
    return min((sight.awake_since or now, *(held.began for held in sight.held)))
