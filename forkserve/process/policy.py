"""What a leader does next: decided here, from values and the time, and done elsewhere."""

from typing import NamedTuple

from forkserve.process.phase import Phase

KILL_AFTER = 1.0  # from the hurry
FIRST_BACKOFF = 0.1
LONGEST_BACKOFF = 30.0
FORK_RETRY = 0.25
SPAWNS_A_SECOND = 200


class WorkerView(NamedTuple):
    """One living worker; moments are monotonic seconds."""

    pid: int
    slot: int
    phase: Phase
    started_at: float
    hurried_at: float = 0.0


class SlotView(NamedTuple):
    """A place for a worker that has none, and when it may have one."""

    slot: int
    spawn_at: float


class LeaderView(NamedTuple):
    """All that a decision depends on, but the time."""

    phase: Phase
    workers: tuple[WorkerView, ...]
    empty: tuple[SlotView, ...]
    boot_timeout: float
    drain_until: float | None = None


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

    def wake_by(self, moment: float) -> None:
        """Decide again at this moment at the latest."""
        self.wake_at = moment if self.wake_at is None else min(self.wake_at, moment)


def decide(view: LeaderView, now: float) -> Plan:
    """Return the plan for this moment.

    A worker goes down one ladder: asked to stop, hurried at the drain timeout, killed a second
    after. One that is not ready at its boot timeout is killed at once.
    """
    plan = Plan()
    if view.phase.is_ending():
        _plan_stop(plan, view, now)
        plan.is_over = not view.workers
        return plan
    for slot in view.empty:
        if slot.spawn_at <= now:
            plan.spawn.append(slot.slot)
            plan.wake_by(now + view.boot_timeout)
        else:
            plan.wake_by(slot.spawn_at)
    for worker in view.workers:
        if worker.phase is not Phase.BOOTING:
            continue
        due = worker.started_at + view.boot_timeout
        if due <= now:
            plan.give_up_on.append(worker.pid)
        else:
            plan.wake_by(due)
    return plan


def _plan_stop(plan: Plan, view: LeaderView, now: float) -> None:
    is_hurried = view.phase is Phase.HURRYING or (
        view.drain_until is not None and view.drain_until <= now
    )
    for worker in view.workers:
        if worker.phase is Phase.KILLED:
            continue
        if worker.phase is Phase.HURRYING:
            if worker.hurried_at + KILL_AFTER <= now:
                plan.kill.append(worker.pid)
            else:
                plan.wake_by(worker.hurried_at + KILL_AFTER)
        elif is_hurried:
            plan.hurry.append(worker.pid)
            plan.wake_by(now + KILL_AFTER)
        elif worker.phase is not Phase.STOPPING:
            plan.stop.append(worker.pid)
    if not is_hurried and view.drain_until is not None and view.workers:
        plan.wake_by(view.drain_until)


def next_spawn(was_ready: bool, failures: int, now: float, last_spawn: float) -> float:
    """Return when a dead worker's slot may have another.

    At once if it had been ready, but for a bound on the whole server; else backed off from 0.1 to
    30 s by its failures in a row (1 for the first).
    """
    if was_ready:
        return max(now, last_spawn + 1 / SPAWNS_A_SECOND)
    return now + min(LONGEST_BACKOFF, FIRST_BACKOFF * 2.0 ** min(failures - 1, 9))
