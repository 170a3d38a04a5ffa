"""Which generation of the user's code serves: decided here, and done by the supervisor."""

from typing import NamedTuple

from forkserve.process.phase import Phase
from forkserve.process.policy import ChildView, Plan


class SupervisorView(NamedTuple):
    """All that a decision depends on, but the time. The leaders are in the order of their birth."""

    phase: Phase
    leaders: tuple[ChildView, ...]
    orphans: tuple[ChildView, ...]  # workers whose leader has died
    is_reload_wanted: bool
    spawn_at: float


def decide(view: SupervisorView, now: float) -> Plan:
    """Return the plan for this moment; whatever it spawns is the next generation.

    One generation boots at a time. The newest that is ready serves; those before it are asked to
    stop, so nothing happens to them before it is ready. A wish to reload waits until the boot that
    is under way has ended, one way or the other.
    """
    plan = Plan()
    everybody = (*view.leaders, *view.orphans)
    if view.phase.is_ending():
        for child in everybody:
            plan.see_out(child, now, is_hurried=view.phase is Phase.HURRYING)
        plan.is_over = not everybody
        return plan
    serving = [leader for leader in view.leaders if leader.phase is Phase.SERVING]
    is_booting = any(leader.phase is Phase.BOOTING or leader.is_outdated for leader in view.leaders)
    if not is_booting and (view.is_reload_wanted or not serving):
        if view.spawn_at <= now:
            plan.spawn.append(0)
        else:
            plan.wake_by(view.spawn_at)
    for child in everybody:
        if child in view.orphans or child in serving[:-1]:
            plan.see_out(child, now, is_hurried=False)
        else:
            plan.climb_down(child, now)
    return plan
