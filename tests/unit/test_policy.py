"""What a leader does next, as tables and as what holds of every course of events."""

from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from forkserve.process.phase import Phase
from forkserve.process.policy import (
    FORK_RETRY,
    LONGEST_BACKOFF,
    SPAWNS_A_SECOND,
    ChildView,
    LeaderView,
    Plan,
    SlotView,
    back_off,
    decide,
    next_spawn,
)
from tests.unit.ladder import check_rungs, is_due, shown

NOW = 100.0
SOON = NOW + 5
LATER = NOW + 50

booting = ChildView(1, Phase.BOOTING, SOON, 0)
late = ChildView(2, Phase.BOOTING, NOW, 1)
serving = ChildView(3, Phase.SERVING, NOW - 10, 2)
stopping = ChildView(4, Phase.STOPPING, SOON, 3)
drained = ChildView(5, Phase.STOPPING, NOW, 4)
hurrying = ChildView(6, Phase.HURRYING, SOON, 5)
overdue = ChildView(7, Phase.HURRYING, NOW, 6)
killed = ChildView(8, Phase.KILLED, NOW - 10, 7)

old = ChildView(9, Phase.SERVING, NOW - 10, 8, is_outdated=True)
old_and_booting = ChildView(10, Phase.BOOTING, SOON, 8, is_outdated=True)
successor = ChildView(11, Phase.BOOTING, LATER, 8)
ready_successor = ChildView(12, Phase.SERVING, LATER, 8)


@pytest.mark.parametrize(
    ("child", "plan"),
    [
        pytest.param(booting, {"wake_at": SOON}, id="it has its boot timeout"),
        pytest.param(late, {"give_up_on": [2]}, id="it was not ready in time"),
        pytest.param(serving, {}, id="it serves as long as it likes"),
        pytest.param(stopping, {"wake_at": SOON}, id="it has its drain timeout"),
        pytest.param(drained, {"hurry": [5]}, id="it has not drained in time"),
        pytest.param(hurrying, {"wake_at": SOON}, id="it has its last moment"),
        pytest.param(overdue, {"kill": [7]}, id="it has had it"),
        pytest.param(killed, {}, id="nothing is left to do but wait for the body"),
    ],
)
def test_one_rung_down(child: ChildView, plan: dict[str, object]) -> None:
    """Whoever is due goes one rung down, and the others are looked at again when they are."""
    made = Plan()
    made.climb_down(child, NOW)
    assert shown(made) == plan


@pytest.mark.parametrize(
    ("child", "orderly", "hurried"),
    [
        pytest.param(booting, {"hurry": [1]}, {"hurry": [1]}, id="booting"),
        pytest.param(late, {"hurry": [2]}, {"hurry": [2]}, id="not ready in time"),
        pytest.param(serving, {"stop": [3]}, {"hurry": [3]}, id="serving"),
        pytest.param(old, {"stop": [9]}, {"hurry": [9]}, id="outdated"),
        pytest.param(stopping, {"wake_at": SOON}, {"hurry": [4]}, id="asked"),
        pytest.param(drained, {"hurry": [5]}, {"hurry": [5]}, id="not drained in time"),
        pytest.param(hurrying, {"wake_at": SOON}, {"wake_at": SOON}, id="hurried"),
        pytest.param(overdue, {"kill": [7]}, {"kill": [7]}, id="hurried in vain"),
        pytest.param(killed, {}, {}, id="killed"),
    ],
)
def test_the_way_out(
    child: ChildView, orderly: dict[str, object], hurried: dict[str, object]
) -> None:
    """Each is asked once, and hurried once; in a hurry nobody is asked who was not asked before."""
    patient, impatient = Plan(), Plan()
    patient.see_out(child, NOW, is_hurried=False)
    impatient.see_out(child, NOW, is_hurried=True)
    assert (shown(patient), shown(impatient)) == (orderly, hurried)


def test_a_plan_wakes_up_for_the_first_of_all() -> None:
    """However many moments there are, it is the next one that counts."""
    plan = Plan()
    for moment in (LATER, SOON, LATER + 1):
        plan.wake_by(moment)
    assert plan.wake_at == SOON


@pytest.mark.parametrize("name", ["spawn", "stop", "hurry", "kill", "give_up_on"])
def test_a_plan_with_something_to_do(name: str) -> None:
    """Any act makes another plan due."""
    plan = Plan()
    assert not plan.has_acts()
    getattr(plan, name).append(1)
    assert plan.has_acts()


def view(
    phase: Phase, *workers: ChildView, empty: tuple[tuple[int, float], ...] = (), at_once: int = 4
) -> LeaderView:
    """Return what a leader sees."""
    return LeaderView(phase, workers, tuple(SlotView(*one) for one in empty), at_once)


@pytest.mark.parametrize(
    ("seen", "plan"),
    [
        pytest.param(view(Phase.SERVING, serving), {}, id="all well: wait for what happens"),
        pytest.param(
            view(Phase.BOOTING, empty=((0, 0.0), (1, 0.0))),
            {"spawn": [0, 1]},
            id="begin with all workers",
        ),
        pytest.param(
            view(Phase.BOOTING, empty=((0, 0.0), (1, 0.0), (2, 0.0)), at_once=2),
            {"spawn": [0, 1]},
            id="no more boot at once than the CPUs can take",
        ),
        pytest.param(
            view(Phase.SERVING, booting, serving, empty=((0, 0.0), (1, NOW + 3)), at_once=1),
            {"wake_at": NOW + 3},
            id="while one boots the others wait for it, not for their own time",
        ),
        pytest.param(
            view(Phase.SERVING, serving, empty=((0, NOW),)),
            {"spawn": [0]},
            id="a slot's time has come",
        ),
        pytest.param(
            view(Phase.SERVING, empty=((0, LATER), (1, SOON))),
            {"wake_at": SOON},
            id="wait for the first slot's time",
        ),
        pytest.param(
            view(Phase.SERVING, late, booting, serving, drained, overdue, killed),
            {"give_up_on": [2], "hurry": [5], "kill": [7], "wake_at": SOON},
            id="whoever is due goes one rung down",
        ),
        pytest.param(
            view(Phase.SERVING, old, empty=((8, NOW),)),
            {"spawn": [8]},
            id="an outdated worker serves while another one is started beside it",
        ),
        pytest.param(
            view(Phase.SERVING, old, empty=((8, SOON),)),
            {"wake_at": SOON},
            id="and while its successor is backed off",
        ),
        pytest.param(
            view(Phase.SERVING, old, successor),
            {"wake_at": LATER},
            id="and while its successor boots",
        ),
        pytest.param(
            view(Phase.SERVING, old, serving),
            {},
            id="and whoever else is ready",
        ),
        pytest.param(
            view(Phase.SERVING, old, ready_successor),
            {"stop": [9]},
            id="until its successor is ready",
        ),
        pytest.param(
            view(Phase.SERVING, old, old._replace(pid=13), ready_successor),
            {"stop": [9, 13]},
            id="and so do all that it has outdated",
        ),
        pytest.param(
            view(Phase.SERVING, old, old_and_booting, empty=((8, NOW),)),
            {"spawn": [8], "wake_at": SOON},
            id="an outdated worker that boots is looked after",
        ),
        pytest.param(
            view(Phase.SERVING, old_and_booting._replace(due=NOW), ready_successor),
            {"give_up_on": [10]},
            id="and given up like others",
        ),
        pytest.param(
            view(Phase.SERVING, old, old._replace(pid=13)),
            {"stop": [9]},
            id="or one at least that is newer",
        ),
        pytest.param(
            view(Phase.SERVING, old, old_and_booting),
            {"wake_at": SOON},
            id="but not before that is ready",
        ),
        pytest.param(
            view(Phase.STOPPING, booting, serving, old),
            {"hurry": [1], "stop": [3, 9]},
            id="ask all to stop",
        ),
        pytest.param(
            view(Phase.STOPPING, stopping, hurrying), {"wake_at": SOON}, id="ask nobody twice"
        ),
        pytest.param(
            view(Phase.STOPPING, drained, stopping),
            {"hurry": [5], "wake_at": SOON},
            id="hurry each at its drain timeout",
        ),
        pytest.param(
            view(Phase.HURRYING, serving, stopping, booting, hurrying),
            {"hurry": [3, 4, 1], "wake_at": SOON},
            id="hurry all when told to",
        ),
        pytest.param(
            view(Phase.HURRYING, overdue, hurrying),
            {"kill": [7], "wake_at": SOON},
            id="kill who has had it",
        ),
        pytest.param(view(Phase.HURRYING, killed), {}, id="wait for the body"),
        pytest.param(view(Phase.STOPPING), {"is_over": True}, id="all have left"),
        pytest.param(view(Phase.HURRYING, empty=((0, 0.0),)), {"is_over": True}, id="all are gone"),
        pytest.param(
            view(Phase.STOPPING, stopping, empty=((0, 0.0),)),
            {"wake_at": SOON},
            id="nobody new while stopping",
        ),
    ],
)
def test_what_to_do_now(seen: LeaderView, plan: dict[str, object]) -> None:
    """Each row: what a leader sees, and all that it does and waits for then."""
    assert shown(decide(seen, NOW)) == plan


@pytest.mark.parametrize(
    ("was_ready", "failures", "last_spawn", "delay"),
    [
        (True, 0, 0.0, 0.0),
        (True, 0, NOW, 1 / SPAWNS_A_SECOND),
        (True, 0, NOW + 1, 1 + 1 / SPAWNS_A_SECOND),
        (False, 1, 0.0, 0.1),
        (False, 2, 0.0, 0.2),
        (False, 3, 0.0, 0.4),
        (False, 9, 0.0, 25.6),
        (False, 10, 0.0, LONGEST_BACKOFF),
        (False, 1000, 0.0, LONGEST_BACKOFF),
    ],
)
def test_when_a_dead_workers_slot_has_another(
    was_ready: bool, failures: int, last_spawn: float, delay: float
) -> None:
    """At once after a worker that had served, later and later after those that never did."""
    assert next_spawn(was_ready, failures, NOW, last_spawn) == pytest.approx(NOW + delay)


@given(st.integers(1, 10**6))
@settings(derandomize=True, deadline=None)
def test_a_back_off_has_an_end(failures: int) -> None:
    """However often something failed, it is tried again within half a minute, and not sooner."""
    assert 0 < back_off(failures) <= back_off(failures + 1) <= LONGEST_BACKOFF


def test_a_back_off_has_an_end_after_a_night() -> None:
    """A worker that fails every half minute does so more than a thousand times by morning."""
    assert next_spawn(False, 1025, NOW, 0.0) == NOW + LONGEST_BACKOFF


def test_all_workers_dying_at_once_come_back_at_a_bounded_rate() -> None:
    """Two hundred a second, however many there were."""
    moments = [NOW]
    for _ in range(400):
        moments.append(next_spawn(True, 0, NOW, moments[-1]))
    assert moments[-1] == pytest.approx(NOW + 2)


@pytest.mark.parametrize(
    ("phase", "is_ending"),
    [
        (Phase.BOOTING, False),
        (Phase.SERVING, False),
        (Phase.STOPPING, True),
        (Phase.HURRYING, True),
        (Phase.KILLED, True),
    ],
)
def test_which_phases_are_the_end(phase: Phase, is_ending: bool) -> None:
    """From the first request to stop on."""
    assert phase.is_ending() == is_ending


def test_a_worker_that_is_never_ready() -> None:
    """Its slot costs ten forks in the first 10 s at most, and later two a minute (F36)."""
    moments = [0.0]
    while moments[-1] < 600:
        moments.append(next_spawn(False, len(moments), moments[-1], moments[-1]))
    assert sum(moment < 10 for moment in moments) <= 10
    late = [moment for moment in moments if moment > 120]
    assert all(after - before >= 30 for before, after in pairwise(late))


def count_booting(workers: Iterable[ChildView]) -> int:
    """Return how many boot."""
    return sum(worker.phase is Phase.BOOTING for worker in workers)


class LeadersLife(RuleBasedStateMachine):
    """A leader that does what decide() says, among workers that do as they like."""

    SLOTS = 3
    AT_ONCE = 2
    BOOT = 10.0
    DRAIN = 5.0
    KILL_AFTER = 1.0
    EVIDENCE = 0.25

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.phase = Phase.BOOTING
        self.asked_at: float | None = None
        self.workers: dict[int, ChildView] = {}
        self.spawn_at = dict.fromkeys(range(self.SLOTS), 0.0)
        self.failures = dict.fromkeys(range(self.SLOTS), 0)
        self.last_pid = 0
        self.can_fork = True
        self.wake_at: float | None = None
        self.is_over = False

    @initialize(is_up=st.sampled_from([False, True, True, True]))
    def it_begins(self, is_up: bool) -> None:
        """Begin at the beginning, or more often when all are ready: a boot ends at once."""
        self.act()
        if is_up:
            self.all_workers_are_ready()

    def view(self) -> LeaderView:
        """Return what the leader sees: a slot whose one worker is outdated is empty."""
        taken = {worker.slot for worker in self.workers.values() if not worker.is_outdated}
        slots = Counter(worker.slot for worker in self.workers.values())
        taken |= {slot for slot, workers in slots.items() if workers > 1}
        empty = tuple(SlotView(s, at) for s, at in self.spawn_at.items() if s not in taken)
        return LeaderView(self.phase, tuple(self.workers.values()), empty, self.AT_ONCE)

    def act(self) -> None:
        """Decide and do it until nothing is left to do, checking each plan on the way."""
        for _ in range(4):
            seen = self.view()
            plan = decide(seen, self.now)
            self.check(plan, seen)
            self.carry_out(plan)
            if not plan.has_acts():
                break
        assert not plan.has_acts()
        self.wake_at, self.is_over = plan.wake_at, plan.is_over

    def check(self, plan: Plan, seen: LeaderView) -> None:
        """Hold a plan to what every plan must be."""
        check_rungs(plan, seen.workers, seen.phase, self.now)
        assert len(plan.spawn) == len(set(plan.spawn))
        assert not (plan.spawn and self.phase.is_ending())
        assert len(plan.spawn) + count_booting(seen.workers) <= self.AT_ONCE or not plan.spawn
        assert not set(plan.spawn) & {w.slot for w in seen.workers if not w.is_outdated}
        assert all(self.spawn_at[slot] <= self.now for slot in plan.spawn)
        assert plan.is_over == (self.phase.is_ending() and not self.workers)
        self.check_stops(plan)

    def check_stops(self, plan: Plan) -> None:
        """Hold it to this: who serves is asked to leave for good reason only."""
        newest = {w.slot: w.pid for w in self.workers.values() if w.phase is Phase.SERVING}
        told = [self.workers[pid] for pid in plan.stop]
        assert self.phase.is_ending() or all(
            worker.is_outdated and worker.pid < newest[worker.slot] for worker in told
        )

    def carry_out(self, plan: Plan) -> None:
        """Do what the plan says."""
        for slot in plan.spawn:
            self.spawn(slot)
        for pid in plan.give_up_on:
            self.move(pid, Phase.HURRYING, self.EVIDENCE)
            self.fail_boot()
        for pid in plan.stop:
            self.move(pid, Phase.STOPPING, self.DRAIN)
        for pid in plan.hurry:
            self.move(pid, Phase.HURRYING, self.KILL_AFTER)
        for pid in plan.kill:
            self.move(pid, Phase.KILLED)

    def spawn(self, slot: int) -> None:
        """Fork, if the machine lets us."""
        if not self.can_fork:
            self.spawn_at[slot] = self.now + FORK_RETRY
            self.fail_boot()
        elif not self.phase.is_ending():
            self.last_pid += 1
            due = self.now + self.BOOT
            self.workers[self.last_pid] = ChildView(self.last_pid, Phase.BOOTING, due, slot)

    def move(self, pid: int, phase: Phase, patience: float = 0.0) -> None:
        """Remember what a worker was told; nobody ever moves up the ladder."""
        worker = self.workers[pid]
        assert phase.value > worker.phase.value
        self.workers[pid] = worker._replace(phase=phase, due=self.now + patience)

    def fail_boot(self) -> None:
        """Give up if nothing has served yet."""
        if self.phase is Phase.BOOTING:
            self.end(Phase.HURRYING)

    def end(self, phase: Phase) -> None:
        """Remember when the end began."""
        self.phase = phase
        self.asked_at = self.now if self.asked_at is None else self.asked_at

    def pick(self, data: st.DataObject, *phases: Phase) -> int | None:
        """Draw one of the workers in these phases."""
        pids = [pid for pid, worker in self.workers.items() if worker.phase in phases]
        return data.draw(st.sampled_from(pids)) if pids else None

    @rule(seconds=st.sampled_from([0.001, 0.25, 1.0, 5.0, 6.0, 10.0, 40.0]))
    def time_passes(self, seconds: float) -> None:
        """Let time pass, deciding whenever the plan wants to be asked again."""
        until = self.now + seconds
        while self.wake_at is not None and self.wake_at <= until:
            assert self.wake_at > self.now
            self.now = self.wake_at
            self.act()
        self.now = until

    @rule(data=st.data())
    def a_worker_is_ready(self, data: st.DataObject) -> None:
        """Let a worker that boots say that it is ready."""
        pid = self.pick(data, Phase.BOOTING)
        if pid is not None:
            self.hear_ready(pid)
        self.act()

    @rule()
    def all_workers_are_ready(self) -> None:
        """Let all workers that boot say that they are ready, and those that wait for them."""
        while count_booting(self.workers.values()):
            for pid, worker in self.workers.items():
                if worker.phase is Phase.BOOTING:
                    self.hear_ready(pid)
            self.act()

    def hear_ready(self, pid: int) -> None:
        """Remember that a worker is ready, and whether all are for the first time."""
        self.workers[pid] = self.workers[pid]._replace(phase=Phase.SERVING, was_ready=True)
        self.failures[self.workers[pid].slot] = 0
        serving = {w.slot for w in self.workers.values() if w.phase is Phase.SERVING}
        if self.phase is Phase.BOOTING and len(serving) == self.SLOTS:
            self.phase = Phase.SERVING

    @rule(data=st.data())
    def a_worker_dies(self, data: st.DataObject) -> None:
        """Let a worker die, asked or not."""
        pid = self.pick(data, *Phase)
        if pid is not None:
            self.bury(self.workers.pop(pid))
        self.act()

    def bury(self, worker: ChildView) -> None:
        """Let the dead worker's slot have another one, if it was its own."""
        if self.phase.is_ending() or worker.is_outdated:
            return
        if not worker.was_ready:
            self.fail_boot()
        self.failures[worker.slot] += not worker.was_ready
        self.spawn_at[worker.slot] = next_spawn(
            worker.was_ready, self.failures[worker.slot], self.now, self.now
        )

    @rule(data=st.data())
    def a_worker_hangs(self, data: st.DataObject) -> None:
        """Let the watch kill a worker, of which the policy hears afterwards only."""
        pid = self.pick(data, Phase.SERVING, Phase.STOPPING)
        if pid is not None:
            self.move(pid, Phase.KILLED)
        self.act()

    @rule(data=st.data())
    def a_worker_is_half_stuck(self, data: st.DataObject) -> None:
        """Let the watch outdate a worker."""
        pid = self.pick(data, Phase.SERVING)
        if pid is not None:
            self.outdate(pid)
        self.act()

    @precondition(lambda self: self.phase is Phase.SERVING)
    @rule()
    def the_user_replaces_all(self) -> None:
        """HUP, without a supervisor."""
        for pid in self.workers:
            self.outdate(pid)
        self.act()

    def outdate(self, pid: int) -> None:
        """Let a worker go on until another one is ready in its place."""
        if not self.workers[pid].is_outdated:
            self.workers[pid] = self.workers[pid]._replace(is_outdated=True)
            self.spawn_at[self.workers[pid].slot] = self.now

    @rule(can_fork=st.booleans())
    def the_machine_changes(self, can_fork: bool) -> None:
        """Let there be room for processes, or not."""
        self.can_fork = can_fork

    @precondition(lambda self: not self.phase.is_ending())
    @rule()
    def the_user_stops(self) -> None:
        """TERM."""
        self.end(Phase.STOPPING)
        self.act()

    @rule()
    def the_user_hurries(self) -> None:
        """QUIT, or a second TERM."""
        self.end(Phase.HURRYING)
        self.act()

    @invariant()
    def it_wakes_up_when_something_is_due(self) -> None:
        """Nobody who is due is overslept, and no slot that may be filled."""
        moments = [w.due for w in self.workers.values() if is_due(w, self.phase)]
        has_room = count_booting(self.workers.values()) < self.AT_ONCE
        if not self.phase.is_ending():
            empty = self.view().empty
            moments += [s.spawn_at for s in empty if has_room or s.spawn_at > self.now]
        assert self.wake_at == min(moments, default=None)

    @invariant()
    def a_slot_has_one_fresh_worker_at_most(self) -> None:
        """Whoever else is in a slot is outdated."""
        fresh = [worker.slot for worker in self.workers.values() if not worker.is_outdated]
        assert len(fresh) == len(set(fresh))

    @invariant()
    def no_slot_is_stuck(self) -> None:
        """While only outdated workers serve in a slot, it may be filled, or one comes or goes."""
        hopeful = {
            worker.slot
            for worker in self.workers.values()
            if not worker.is_outdated or worker.phase is not Phase.SERVING
        }
        hopeful |= {slot.slot for slot in self.view().empty}
        assert self.phase.is_ending() or hopeful == set(range(self.SLOTS))

    @invariant()
    def a_slot_has_two_workers_at_most(self) -> None:
        """More have no room on the scoreboard."""
        slots = Counter(worker.slot for worker in self.workers.values())
        assert max(slots.values(), default=0) <= 2

    @invariant()
    def nobody_outlives_the_ladder(self) -> None:
        """Once asked, a worker is killed at the latest after the drain timeout and a second."""
        if self.asked_at is None or self.now < self.asked_at + self.DRAIN + self.KILL_AFTER:
            return
        assert {worker.phase for worker in self.workers.values()} <= {Phase.KILLED}

    @invariant()
    def a_booting_worker_has_a_deadline(self) -> None:
        """Nobody boots for longer than the boot timeout."""
        phases = [worker.phase for worker in self.workers.values() if worker.due <= self.now]
        assert Phase.BOOTING not in phases

    def teardown(self) -> None:
        """See that a leader that is asked to stop does stop, whatever came before."""
        self.end(Phase.STOPPING if not self.phase.is_ending() else self.phase)
        self.act()
        self.time_passes(self.DRAIN + self.KILL_AFTER)
        self.workers = {p: w for p, w in self.workers.items() if w.phase is not Phase.KILLED}
        self.act()
        assert self.is_over


LeadersLife.TestCase.settings = settings(
    max_examples=150, stateful_step_count=30, deadline=None, derandomize=True
)
TestLeadersLife = LeadersLife.TestCase
