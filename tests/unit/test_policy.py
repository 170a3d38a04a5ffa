"""What a leader does next, as tables and as what holds of every course of events."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from forkserve.process.phase import Phase
from forkserve.process.policy import (
    KILL_AFTER,
    LONGEST_BACKOFF,
    SPAWNS_A_SECOND,
    LeaderView,
    Plan,
    SlotView,
    WorkerView,
    decide,
    next_spawn,
)

NOW = 100.0
BOOT_TIMEOUT = 60.0

booting = WorkerView(1, 0, Phase.BOOTING, NOW - 10)
late = WorkerView(2, 1, Phase.BOOTING, NOW - BOOT_TIMEOUT)
serving = WorkerView(3, 2, Phase.SERVING, NOW - 10)
stopping = WorkerView(4, 3, Phase.STOPPING, NOW - 10)
hurrying = WorkerView(5, 4, Phase.HURRYING, NOW - 10, NOW - KILL_AFTER / 2)
overdue = WorkerView(6, 5, Phase.HURRYING, NOW - 10, NOW - KILL_AFTER)
killed = WorkerView(7, 6, Phase.KILLED, NOW - 10)


def view(
    phase: Phase, *workers: WorkerView, empty: tuple[SlotView, ...] = (), drain: float | None = None
) -> LeaderView:
    """Return what a leader sees."""
    return LeaderView(phase, workers, empty, BOOT_TIMEOUT, drain)


def shown(plan: Plan) -> dict[str, object]:
    """Return what a plan says, without what it does not say."""
    said = {name: getattr(plan, name) for name in Plan.__slots__}
    return {name: value for name, value in said.items() if value not in ([], None, False)}


@pytest.mark.parametrize(
    ("seen", "plan"),
    [
        pytest.param(view(Phase.SERVING, serving), {}, id="all well: wait for what happens"),
        pytest.param(
            view(Phase.BOOTING, empty=(SlotView(0, 0.0), SlotView(1, 0.0))),
            {"spawn": [0, 1], "wake_at": NOW + BOOT_TIMEOUT},
            id="begin with all workers",
        ),
        pytest.param(
            view(Phase.SERVING, serving, empty=(SlotView(0, NOW),)),
            {"spawn": [0], "wake_at": NOW + BOOT_TIMEOUT},
            id="a slot's time has come",
        ),
        pytest.param(
            view(Phase.SERVING, empty=(SlotView(0, NOW + 5), SlotView(1, NOW + 3))),
            {"wake_at": NOW + 3},
            id="wait for the first slot's time",
        ),
        pytest.param(
            view(Phase.BOOTING, booting),
            {"wake_at": NOW - 10 + BOOT_TIMEOUT},
            id="wait for the boot timeout",
        ),
        pytest.param(
            view(Phase.SERVING, late, booting, serving),
            {"give_up_on": [2], "wake_at": NOW - 10 + BOOT_TIMEOUT},
            id="give up on who was not ready in time",
        ),
        pytest.param(
            view(Phase.STOPPING, booting, serving, drain=NOW + 25),
            {"stop": [1, 3], "wake_at": NOW + 25},
            id="ask all to stop",
        ),
        pytest.param(
            view(Phase.STOPPING, stopping, drain=NOW + 25),
            {"wake_at": NOW + 25},
            id="ask nobody twice",
        ),
        pytest.param(
            view(Phase.STOPPING, stopping, serving, drain=NOW),
            {"hurry": [4, 3], "wake_at": NOW + KILL_AFTER},
            id="hurry all at the drain timeout",
        ),
        pytest.param(
            view(Phase.HURRYING, serving, stopping, booting),
            {"hurry": [3, 4, 1], "wake_at": NOW + KILL_AFTER},
            id="hurry all when told to",
        ),
        pytest.param(
            view(Phase.HURRYING, hurrying),
            {"wake_at": NOW + KILL_AFTER / 2},
            id="give the hurried their time",
        ),
        pytest.param(
            view(Phase.HURRYING, overdue, hurrying),
            {"kill": [6], "wake_at": NOW + KILL_AFTER / 2},
            id="kill who has had it",
        ),
        pytest.param(view(Phase.HURRYING, killed), {}, id="wait for the body"),
        pytest.param(view(Phase.STOPPING, drain=NOW + 25), {"is_over": True}, id="all have left"),
        pytest.param(
            view(Phase.HURRYING, empty=(SlotView(0, 0.0),)), {"is_over": True}, id="all are gone"
        ),
        pytest.param(
            view(Phase.STOPPING, stopping, empty=(SlotView(0, 0.0),), drain=NOW + 1),
            {"wake_at": NOW + 1},
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
    """However often a worker failed, another is tried within half a minute."""
    assert NOW < next_spawn(False, failures, NOW, 0.0) <= NOW + LONGEST_BACKOFF


def test_a_back_off_has_an_end_after_a_night() -> None:
    """A worker that fails every half minute does so more than a thousand times by morning."""
    assert next_spawn(False, 1025, NOW, 0.0) == NOW + LONGEST_BACKOFF


def test_a_new_worker_has_a_deadline() -> None:
    """Whoever is forked now is looked after at the boot timeout, even if nothing else happens."""
    assert decide(view(Phase.BOOTING, empty=(SlotView(0, 0.0),)), NOW).wake_at is not None


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


class LeadersLife(RuleBasedStateMachine):
    """A leader that does what decide() says, among workers that do as they like."""

    SLOTS = 3
    DRAIN = 5.0

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.phase = Phase.BOOTING
        self.drain_until: float | None = None
        self.asked_at: float | None = None
        self.workers: dict[int, WorkerView] = {}
        self.spawn_at = dict.fromkeys(range(self.SLOTS), 0.0)
        self.failures = dict.fromkeys(range(self.SLOTS), 0)
        self.last_pid = 0
        self.wake_at: float | None = None
        self.is_over = False
        self.act()

    def act(self) -> None:
        """Decide and do it, checking the plan on the way."""
        taken = {worker.slot for worker in self.workers.values()}
        empty = [SlotView(s, at) for s, at in self.spawn_at.items() if s not in taken]
        view = LeaderView(
            self.phase, tuple(self.workers.values()), tuple(empty), 10.0, self.drain_until
        )
        plan = decide(view, self.now)
        self.check(plan)
        for slot in plan.spawn:
            self.last_pid += 1
            self.workers[self.last_pid] = WorkerView(self.last_pid, slot, Phase.BOOTING, self.now)
        for pid in plan.stop:
            self.move(pid, Phase.STOPPING)
        for pid in plan.hurry:
            self.move(pid, Phase.HURRYING)
        for pid in plan.kill + plan.give_up_on:
            self.move(pid, Phase.KILLED)
        self.wake_at = plan.wake_at
        self.is_over = plan.is_over

    def check(self, plan: Plan) -> None:
        """Hold a plan to what every plan must be."""
        concerned = Counter(plan.stop + plan.hurry + plan.kill + plan.give_up_on)
        assert set(concerned) <= set(self.workers)
        assert not concerned or max(concerned.values()) == 1
        assert not (plan.spawn and self.phase.is_ending())
        assert not set(plan.spawn) & {worker.slot for worker in self.workers.values()}
        assert plan.wake_at is None or plan.wake_at > self.now
        assert plan.is_over == (self.phase.is_ending() and not self.workers)

    def move(self, pid: int, phase: Phase) -> None:
        """Remember what a worker was told; nobody ever moves up the ladder."""
        worker = self.workers[pid]
        assert phase.value > worker.phase.value
        hurried_at = self.now if phase is Phase.HURRYING else worker.hurried_at
        self.workers[pid] = worker._replace(phase=phase, hurried_at=hurried_at)

    @rule(seconds=st.floats(0.001, 20))
    def time_passes(self, seconds: float) -> None:
        """Let time pass, deciding whenever the plan wants to be asked again."""
        until = self.now + seconds
        while self.wake_at is not None and self.wake_at <= until:
            self.now = self.wake_at
            self.act()
        self.now = until

    @precondition(lambda self: self.workers)
    @rule(data=st.data())
    def a_worker_is_ready(self, data: st.DataObject) -> None:
        """Let a worker that boots say that it is ready."""
        pid = data.draw(st.sampled_from(sorted(self.workers)))
        if self.workers[pid].phase is Phase.BOOTING:
            self.move(pid, Phase.SERVING)
            self.failures[self.workers[pid].slot] = 0
            if self.phase is Phase.BOOTING:
                self.phase = Phase.SERVING
        self.act()

    @precondition(lambda self: self.workers)
    @rule(data=st.data())
    def a_worker_dies(self, data: st.DataObject) -> None:
        """Let a worker die, asked or not."""
        worker = self.workers.pop(data.draw(st.sampled_from(sorted(self.workers))))
        was_ready = worker.phase is not Phase.BOOTING
        self.failures[worker.slot] += not was_ready
        self.spawn_at[worker.slot] = next_spawn(
            was_ready, self.failures[worker.slot], self.now, self.now
        )
        self.act()

    @precondition(lambda self: not self.phase.is_ending())
    @rule()
    def the_user_stops(self) -> None:
        """TERM."""
        self.phase = Phase.STOPPING
        self.asked_at = self.now
        self.drain_until = self.now + self.DRAIN
        self.act()

    @precondition(lambda self: self.phase is not Phase.HURRYING)
    @rule()
    def the_user_hurries(self) -> None:
        """QUIT, or a second TERM."""
        self.phase = Phase.HURRYING
        self.asked_at = self.now if self.asked_at is None else self.asked_at
        self.act()

    @invariant()
    def nobody_outlives_the_ladder(self) -> None:
        """Once asked, a worker is killed at the latest after the drain timeout and a second."""
        if self.asked_at is None or self.now < self.asked_at + self.DRAIN + KILL_AFTER:
            return
        assert {worker.phase for worker in self.workers.values()} <= {Phase.KILLED}

    @invariant()
    def every_slot_is_filled_in_the_end(self) -> None:
        """While it serves, a leader with an empty slot has a moment at which it fills it."""
        empty = self.SLOTS - len(self.workers)
        assert self.phase.is_ending() or not empty or self.wake_at is not None

    @invariant()
    def a_booting_worker_has_a_deadline(self) -> None:
        """Nobody boots for longer than the boot timeout."""
        phases = [w.phase for w in self.workers.values() if self.now >= w.started_at + 10.0]
        assert self.phase.is_ending() or Phase.BOOTING not in phases


LeadersLife.TestCase.settings = settings(
    max_examples=25, stateful_step_count=20, deadline=None, derandomize=True
)
TestLeadersLife = LeadersLife.TestCase
