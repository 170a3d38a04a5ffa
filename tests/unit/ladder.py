"""What holds of every plan, a leader's and a supervisor's."""

from collections import Counter
from collections.abc import Sequence

from forkserve.process.phase import Phase
from forkserve.process.policy import ChildView, Plan

_HAS_PATIENCE = (Phase.STOPPING, Phase.HURRYING)


def shown(plan: Plan) -> dict[str, object]:
    """Return what a plan says, without what it does not say."""
    said = {name: getattr(plan, name) for name in Plan.__slots__}
    return {name: value for name, value in said.items() if value not in ([], None, False)}


def is_due(child: ChildView, phase: Phase) -> bool:
    """Whether a parent in this phase waits for the end of this child's patience."""
    if child.phase is Phase.BOOTING:
        return not phase.is_ending()
    return child.phase in _HAS_PATIENCE


def check_rungs(plan: Plan, children: Sequence[ChildView], phase: Phase, now: float) -> None:
    """Check that nobody is told two things, the same thing twice, or anything but the next rung."""
    known = {child.pid: child for child in children}
    concerned = Counter([*plan.stop, *plan.hurry, *plan.kill, *plan.give_up_on])
    assert set(concerned) <= set(known)
    assert not concerned or max(concerned.values()) == 1
    for pid in plan.stop:
        assert known[pid].phase is Phase.SERVING
        assert phase is not Phase.HURRYING
    for pid in plan.hurry:
        may_skip = phase is Phase.HURRYING and known[pid].phase is Phase.SERVING
        may_skip |= phase.is_ending() and known[pid].phase is Phase.BOOTING
        was_asked = known[pid].phase is Phase.STOPPING
        assert may_skip or (was_asked and (known[pid].due <= now or phase is Phase.HURRYING))
    for pid in plan.kill:
        assert known[pid].phase is Phase.HURRYING
        assert known[pid].due <= now
    for pid in plan.give_up_on:
        assert known[pid].phase is Phase.BOOTING
        assert known[pid].due <= now
        assert not phase.is_ending()
    assert plan.wake_at is None or plan.wake_at > now
