"""What a leader does next: decided here, from values and the time, and done elsewhere."""

from typing import NamedTuple

from forkserve.process.phase import Phase

FIRST_BACKOFF = 0.1
LONGEST_BACKOFF = 30.0
FORK_RETRY = 0.25
SPAWNS_A_SECOND = 200


class ChildView(NamedTuple):
    """One living child; moments are monotonic seconds.

    ``due`` is when its patience ends: for one that boots the boot timeout, for one that was asked
    to stop the drain timeout, for one that was hurried the moment it is killed.
    """

    pid: int
    phase: Phase
    due: float
    slot: int = 0
    was_ready: bool = False
    is_outdated: bool = False  # leaves when its successor is ready, or was given up while it booted


class SlotView(NamedTuple):
    """A place for a worker that has none, and when it may have one."""

    slot: int
    spawn_at: float


class LeaderView(NamedTuple):
    """All that a decision depends on, but the time; the workers in the order of their birth."""

    phase: Phase
    workers: tuple[ChildView, ...]
    empty: tuple[SlotView, ...]
    boots_at_once: int


class Plan:
    """What to do now, and when to decide again (None: when something happens)."""

    __slots__ = ("give_up_on", "hurry", "is_over", "kill", "spawn", "stop", "wake_at")

    def __init__(self) -> None:
        self.spawn: list[int] = []
        self.stop: list[int] = []
        self.hurry: list[int] = []
        self.kill: list[int] = []
        self.give_up_on: list[int] = []
        self.wake_at: float | None = None
        self.is_over = False

    def has_acts(self) -> bool:
        """Whether there is something to do: afterwards another plan is due."""
        return bool(self.spawn or self.stop or self.hurry or self.kill or self.give_up_on)

    def wake_by(self, moment: float) -> None:
        """Decide again at this moment at the latest."""
        self.wake_at = moment if self.wake_at is None else min(self.wake_at, moment)

    def climb_down(self, child: ChildView, now: float) -> None:
        """Take a child one rung down the ladder if its time has come.

        One that was asked to stop is hurried at its drain timeout, and killed a moment after; one
        that is not ready at its boot timeout is given up.
        """
        rungs = {
            Phase.BOOTING: self.give_up_on,
            Phase.STOPPING: self.hurry,
            Phase.HURRYING: self.kill,
        }
        rung = rungs.get(child.phase)
        if rung is None:
            return
        if child.due <= now:
            rung.append(child.pid)
        else:
            self.wake_by(child.due)

    def see_out(self, child: ChildView, now: float, *, is_hurried: bool) -> None:
        """Bring a child nearer to its end, in an orderly way or in a hurry.

        One that boots serves nobody yet, and may hang in code that hears no signal.
        """
        if child.phase is Phase.SERVING and not is_hurried:
            self.stop.append(child.pid)
        elif child.phase in (Phase.BOOTING, Phase.SERVING) or (
            child.phase is Phase.STOPPING and is_hurried
        ):
            self.hurry.append(child.pid)
        else:
            self.climb_down(child, now)


def decide(view: LeaderView, now: float) -> Plan:
    """Return the plan for this moment."""
    plan = Plan()
    if view.phase.is_ending():
        for worker in view.workers:
            plan.see_out(worker, now, is_hurried=view.phase is Phase.HURRYING)
        plan.is_over = not view.workers
        return plan
    room = view.boots_at_once - sum(one.phase is Phase.BOOTING for one in view.workers)
    for slot in view.empty:
        if slot.spawn_at > now:
            plan.wake_by(slot.spawn_at)
        elif len(plan.spawn) < room:  # else it is its turn when one of them is ready
            plan.spawn.append(slot.slot)
    newest = {w.slot: w.pid for w in view.workers if w.phase is Phase.SERVING}  # the last born
    for worker in view.workers:
        if worker.phase is Phase.SERVING and newest[worker.slot] != worker.pid:
            plan.stop.append(worker.pid)
        else:
            plan.climb_down(worker, now)
    return plan


def next_spawn(was_ready: bool, failures: int, now: float, last_spawn: float) -> float:
    """Return when a dead worker's slot may have another.

    At once if it had been ready, but for a bound on the whole server; else backed off from 0.1 to
    30 s by its failures in a row (1 for the first).
    """
    if was_ready:
        return max(now, last_spawn + 1 / SPAWNS_A_SECOND)
    return now + back_off(failures)


def back_off(failures: int) -> float:
    """Return how many seconds to wait after so many failures in a row, from 0.1 to 30."""
    return min(LONGEST_BACKOFF, FIRST_BACKOFF * 2.0 ** min(failures - 1, 9))
