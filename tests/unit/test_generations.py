"""Which generation serves: as tables, as walks, and as what holds of every course of events."""

from collections.abc import Callable
from itertools import count, product

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from forkserve.process.generations import SupervisorView, decide
from forkserve.process.phase import Phase
from forkserve.process.policy import FORK_RETRY, ChildView, Plan, back_off
from tests.unit.ladder import check_rungs, is_due, shown

NOW = 100.0
SOON = NOW + 5
LATER = NOW + 50

booting = ChildView(1, Phase.BOOTING, SOON)
late = ChildView(2, Phase.BOOTING, NOW)
failing = ChildView(3, Phase.BOOTING, SOON, is_outdated=True)
given_up = ChildView(4, Phase.HURRYING, SOON, is_outdated=True)
serving = ChildView(5, Phase.SERVING, 0.0)
newer = ChildView(6, Phase.SERVING, 0.0)
newest = ChildView(7, Phase.SERVING, 0.0)
stopping = ChildView(8, Phase.STOPPING, SOON)
drained = ChildView(9, Phase.STOPPING, NOW)
hurrying = ChildView(10, Phase.HURRYING, SOON)
overdue = ChildView(11, Phase.HURRYING, NOW)
killed = ChildView(12, Phase.KILLED, NOW)
orphan = ChildView(13, Phase.SERVING, 0.0)


def view(
    phase: Phase,
    *leaders: ChildView,
    orphans: tuple[ChildView, ...] = (),
    wants_reload: bool = False,
    spawn_at: float = 0.0,
) -> SupervisorView:
    """Return what a supervisor sees."""
    return SupervisorView(phase, leaders, orphans, wants_reload, spawn_at)


@pytest.mark.parametrize(
    ("seen", "plan"),
    [
        pytest.param(view(Phase.BOOTING), {"spawn": [0]}, id="begin with one"),
        pytest.param(view(Phase.BOOTING, booting), {"wake_at": SOON}, id="it boots"),
        pytest.param(view(Phase.BOOTING, late), {"give_up_on": [2]}, id="not in time"),
        pytest.param(view(Phase.SERVING, serving), {}, id="all well: wait for what happens"),
        pytest.param(
            view(Phase.SERVING, serving, wants_reload=True), {"spawn": [0]}, id="a reload"
        ),
        pytest.param(
            view(Phase.SERVING, serving, wants_reload=True, spawn_at=SOON),
            {"wake_at": SOON},
            id="a reload whose time comes later",
        ),
        pytest.param(
            view(Phase.SERVING, serving, booting),
            {"wake_at": SOON},
            id="nothing happens to who serves while another one boots",
        ),
        pytest.param(
            view(Phase.SERVING, serving, booting, wants_reload=True),
            {"wake_at": SOON},
            id="one boots at a time",
        ),
        pytest.param(
            view(Phase.SERVING, serving, failing, wants_reload=True),
            {"wake_at": SOON},
            id="also while it tells why it will not serve",
        ),
        pytest.param(
            view(Phase.SERVING, serving, given_up, wants_reload=True),
            {"wake_at": SOON},
            id="also while it has been given up, and is not gone",
        ),
        pytest.param(
            view(Phase.SERVING, given_up), {"wake_at": SOON}, id="also if nobody else serves"
        ),
        pytest.param(
            view(Phase.SERVING, given_up._replace(due=NOW)), {"kill": [4]}, id="until it is gone"
        ),
        pytest.param(
            view(Phase.SERVING, serving, newer), {"stop": [5]}, id="the newest one serves"
        ),
        pytest.param(
            view(Phase.SERVING, serving, newer, newest, wants_reload=True),
            {"spawn": [0], "stop": [5, 6]},
            id="and what was before it is asked to leave, whatever comes next",
        ),
        pytest.param(
            view(Phase.SERVING, stopping, newer, wants_reload=True),
            {"spawn": [0], "wake_at": SOON},
            id="a reload waits for no one who leaves",
        ),
        pytest.param(
            view(Phase.SERVING, drained, overdue, killed, serving),
            {"hurry": [9], "kill": [11]},
            id="who leaves does so on time",
        ),
        pytest.param(
            view(Phase.SERVING, stopping), {"spawn": [0], "wake_at": SOON}, id="nobody serves"
        ),
        pytest.param(
            view(Phase.SERVING, spawn_at=SOON), {"wake_at": SOON}, id="another one, but not now"
        ),
        pytest.param(
            view(Phase.SERVING, serving, orphans=(orphan,)),
            {"stop": [13]},
            id="an orphan is asked to leave",
        ),
        pytest.param(
            view(Phase.SERVING, serving, orphans=(stopping, drained, hurrying, overdue, killed)),
            {"hurry": [9], "kill": [11], "wake_at": SOON},
            id="and goes the way of all",
        ),
        pytest.param(
            view(Phase.SERVING, booting, orphans=(orphan,)),
            {"stop": [13], "wake_at": SOON},
            id="whoever serves or not",
        ),
        pytest.param(
            view(Phase.STOPPING, serving, booting, stopping, orphans=(orphan,), wants_reload=True),
            {"hurry": [1], "stop": [5, 13], "wake_at": SOON},
            id="at a stop all are asked, and nobody comes",
        ),
        pytest.param(
            view(Phase.STOPPING, drained, overdue, given_up, killed),
            {"hurry": [9], "kill": [11], "wake_at": SOON},
            id="and leave on time",
        ),
        pytest.param(
            view(Phase.HURRYING, serving, booting, stopping, hurrying, orphans=(orphan,)),
            {"hurry": [5, 1, 8, 13], "wake_at": SOON},
            id="all are hurried",
        ),
        pytest.param(view(Phase.HURRYING, killed), {}, id="wait for the body"),
        pytest.param(
            view(Phase.STOPPING, orphans=(stopping,)), {"wake_at": SOON}, id="also for an orphan's"
        ),
        pytest.param(
            view(Phase.STOPPING, wants_reload=True), {"is_over": True}, id="all have left"
        ),
        pytest.param(view(Phase.HURRYING), {"is_over": True}, id="all are gone"),
    ],
)
def test_what_to_do_now(seen: SupervisorView, plan: dict[str, object]) -> None:
    """Each row: what a supervisor sees, and all that it does and waits for then."""
    assert shown(decide(seen, NOW)) == plan


class World:
    """A supervisor that does what decide() says; a leader's process id is its generation.

    Each plan is checked on the way.
    """

    BOOT = 10.0
    DRAIN = 5.0
    KILL_AFTER = 2.0
    EVIDENCE = 0.25

    def __init__(self) -> None:
        self.now = 0.0
        self.phase = Phase.BOOTING
        self.leaders: dict[int, ChildView] = {}
        self.orphans: dict[int, ChildView] = {}
        self.born_at: dict[int, float] = {}
        self.is_reload_wanted = False
        self.spawn_at = 0.0
        self.last_number = 0
        self.failures = 0
        self.asked_at: float | None = None
        self.can_fork = True
        self.wake_at: float | None = None
        self.is_over = False
        self._orphan_pids = count(1001)
        self.act()

    # -- what can be seen

    def view(self) -> SupervisorView:
        """Return what the supervisor sees."""
        leaders, orphans = tuple(self.leaders.values()), tuple(self.orphans.values())
        return SupervisorView(self.phase, leaders, orphans, self.is_reload_wanted, self.spawn_at)

    def everybody(self) -> dict[int, ChildView]:
        """Return every child by its process id."""
        return self.leaders | self.orphans

    def among(self, *phases: Phase) -> list[int]:
        """Return the leaders in these phases."""
        return [pid for pid, leader in self.leaders.items() if leader.phase in phases]

    def serving(self) -> int | None:
        """Return the generation that serves."""
        return max(self.among(Phase.SERVING), default=None)

    def is_booting(self) -> bool:
        """Whether a generation is neither ready nor gone."""
        return any(
            leader.phase is Phase.BOOTING or leader.is_outdated for leader in self.leaders.values()
        )

    def leaving(self) -> list[int]:
        """Return the leaders that were told to leave, or will not serve."""
        told = self.among(Phase.STOPPING, Phase.HURRYING, Phase.KILLED)
        return told + [p for p in self.among(Phase.BOOTING) if self.leaders[p].is_outdated]

    def phase_of(self, generation: int) -> Phase | None:
        """Return how far a generation is, None if it is gone."""
        leader = self.leaders.get(generation)
        return leader and leader.phase

    # -- what the supervisor does

    def act(self) -> None:
        """Decide and do it until nothing is left to do."""
        for _ in range(4):
            plan = decide(self.view(), self.now)
            self.check(plan)
            self.carry_out(plan)
            if not plan.has_acts():
                break
        assert not plan.has_acts()
        self.wake_at, self.is_over = plan.wake_at, plan.is_over

    def check(self, plan: Plan) -> None:
        """Hold a plan to what every plan must be."""
        check_rungs(plan, tuple(self.everybody().values()), self.phase, self.now)
        assert plan.is_over == (self.phase.is_ending() and not self.everybody())
        if plan.spawn:
            assert plan.spawn == [0]
            assert self.spawn_at <= self.now
            assert self.is_reload_wanted or self.serving() is None
            assert not self.is_booting()
            assert not self.phase.is_ending()
        if not self.phase.is_ending():
            serving = self.serving()
            told = {*plan.stop, *plan.hurry, *plan.kill, *plan.give_up_on}
            assert serving not in told
            assert all(pid in self.orphans or pid < (serving or 0) for pid in plan.stop)

    def carry_out(self, plan: Plan) -> None:
        """Do what the plan says."""
        for _ in plan.spawn:
            self.spawn()
        for pid in plan.give_up_on:
            self.tell(pid, Phase.HURRYING, self.EVIDENCE)
            self.leaders[pid] = self.leaders[pid]._replace(is_outdated=True)
        for pid in plan.stop:
            self.tell(pid, Phase.STOPPING, self.DRAIN)
        for pid in plan.hurry:
            self.tell(pid, Phase.HURRYING, self.KILL_AFTER)
        for pid in plan.kill:
            self.tell(pid, Phase.KILLED, 0.0)

    def spawn(self) -> None:
        """Fork a leader, if the machine lets us."""
        self.is_reload_wanted = False
        if not self.can_fork:
            self.spawn_at = self.now + FORK_RETRY
            self.fail_boot()
            return
        self.last_number += 1
        pid = self.last_number
        self.leaders[pid] = ChildView(pid, Phase.BOOTING, self.now + self.BOOT)
        self.born_at[pid] = self.now

    def tell(self, pid: int, phase: Phase, patience: float) -> None:
        """Remember what a child was told; nobody ever moves up the ladder."""
        home = self.leaders if pid in self.leaders else self.orphans
        assert phase.value > home[pid].phase.value
        home[pid] = home[pid]._replace(phase=phase, due=self.now + patience)

    def fail_boot(self) -> bool:
        """Give up if nothing has served yet."""
        if self.phase is not Phase.BOOTING:
            return False
        self.end(Phase.HURRYING)
        return True

    def end(self, phase: Phase) -> None:
        """Remember when the end began."""
        self.phase = phase
        self.asked_at = self.now if self.asked_at is None else self.asked_at

    # -- what happens to it

    def pass_time(self, seconds: float) -> None:
        """Let time pass, deciding whenever the plan wants to be asked again."""
        until = self.now + seconds
        while self.wake_at is not None and self.wake_at <= until:
            assert self.wake_at > self.now
            self.now = self.wake_at
            self.act()
        self.now = until

    def hup(self) -> None:
        """Wish for a reload, which means something once something has served."""
        if self.phase is Phase.SERVING:
            self.is_reload_wanted, self.spawn_at = True, 0.0
        self.act()

    def term(self) -> None:
        """Stop; the second time, hurry."""
        self.end(Phase.HURRYING if self.phase.is_ending() else Phase.STOPPING)
        self.act()

    def quit(self) -> None:
        """Hurry."""
        self.end(Phase.HURRYING)
        self.act()

    def says_loaded(self, generation: int) -> None:
        """Let a leader say that it has the user's code: its patience begins again."""
        leader = self.leaders[generation]
        if leader.phase is Phase.BOOTING:
            self.leaders[generation] = leader._replace(due=self.now + self.BOOT)
        self.act()

    def says_ready(self, generation: int) -> None:
        """Let a leader say that it is ready; too late once it was told to leave."""
        leader = self.leaders[generation]
        if leader.phase is Phase.BOOTING and not leader.is_outdated:
            self.leaders[generation] = leader._replace(phase=Phase.SERVING)
            self.phase = Phase.SERVING if self.phase is Phase.BOOTING else self.phase
        self.act()

    def says_failed(self, generation: int) -> None:
        """Let a leader that boots say that it will not serve."""
        if self.leaders[generation].phase is Phase.BOOTING:
            self.leaders[generation] = self.leaders[generation]._replace(is_outdated=True)
        self.act()

    def dies(self, generation: int, orphans: int = 0, pause: float = 0.0) -> None:
        """Let a leader die before its workers, and another one come after a pause."""
        leader = self.leaders.pop(generation)
        for pid in (next(self._orphan_pids) for _ in range(orphans)):
            phase = Phase.STOPPING if self.phase.is_ending() else Phase.SERVING
            self.orphans[pid] = ChildView(pid, phase, leader.due)
            self.born_at[pid] = self.now
        if not self.phase.is_ending():
            self.bury(leader, pause)
        self.act()

    def bury(self, leader: ChildView, pause: float) -> None:
        """Let another one come if nobody serves."""
        has_failed = leader.phase is Phase.BOOTING or leader.is_outdated
        if has_failed and not self.fail_boot() and self.serving() is None:
            self.failures += 1
            self.spawn_at = self.now + back_off(self.failures)
        if leader.phase is Phase.SERVING:
            self.spawn_at, self.failures = self.now + pause, 0

    def orphan_dies(self, pid: int) -> None:
        """Let an orphan die."""
        del self.orphans[pid]
        self.act()

    def settle(self) -> None:
        """Let everybody do what is wished, until nobody wishes anything."""
        for _ in range(20):
            for pid in self.among(Phase.BOOTING):
                self.says_ready(pid)
            for pid in self.leaving():
                self.dies(pid)
            for pid in tuple(self.orphans):
                self.orphan_dies(pid)
            if self.wake_at is not None and not self.is_booting():
                self.pass_time(self.wake_at - self.now)


def first_boot() -> World:
    """Return one in which nothing has served yet."""
    return World()


def all_well() -> World:
    """Return one in which generation 1 serves."""
    world = World()
    world.says_ready(1)
    return world


def reload_under_way() -> World:
    """Have generation 2 boot beside it."""
    world = all_well()
    world.hup()
    return world


def another_one_wished_for() -> World:
    """Have the user ask once more meanwhile."""
    world = reload_under_way()
    world.hup()
    return world


def reload_failing() -> World:
    """Have generation 2 say that it will not serve, without being gone."""
    world = reload_under_way()
    world.says_failed(2)
    return world


def reload_given_up() -> World:
    """Have generation 2 not ready in time."""
    world = reload_under_way()
    world.pass_time(World.BOOT)
    return world


def old_one_leaving() -> World:
    """Have generation 2 ready, and generation 1 finish what it serves."""
    world = reload_under_way()
    world.says_ready(2)
    return world


def old_one_hurried() -> World:
    """Have generation 1 not finish in time."""
    world = old_one_leaving()
    world.pass_time(World.DRAIN)
    return world


def leader_died() -> World:
    """Have only orphans serve, while generation 2 boots."""
    world = all_well()
    world.dies(1, orphans=2)
    return world


def backed_off() -> World:
    """Have generation 2 fail, so that the next one may not come yet."""
    world = leader_died()
    world.dies(2)
    return world


STATES = [
    first_boot,
    all_well,
    reload_under_way,
    another_one_wished_for,
    reload_failing,
    reload_given_up,
    old_one_leaving,
    old_one_hurried,
    leader_died,
    backed_off,
]

AFTER_TWO_HUPS = {
    first_boot: 1,  # there is nothing to load again
    all_well: 3,
    reload_under_way: 3,
    another_one_wished_for: 3,
    reload_failing: 3,
    reload_given_up: 3,
    old_one_leaving: 4,
    old_one_hurried: 4,
    leader_died: 3,
    backed_off: 4,
}

REQUESTS = {"HUP": World.hup, "TERM": World.term, "QUIT": World.quit}
AN_END = [pair for pair in product(REQUESTS, repeat=2) if pair != ("HUP", "HUP")]


@pytest.mark.parametrize(("state", "generation"), AFTER_TWO_HUPS.items())
def test_two_reloads(state: Callable[[], World], generation: int) -> None:
    """Wishes add up to one while a generation boots; the newest serves in the end, and alone."""
    world = state()
    world.hup()
    world.hup()
    world.settle()
    assert {pid: leader.phase for pid, leader in world.leaders.items()} == {
        generation: Phase.SERVING
    }
    assert not world.orphans


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize(("first", "second"), AN_END)
def test_an_end_comes_before_a_reload(state: Callable[[], World], first: str, second: str) -> None:
    """Whatever the order of the requests, one that asks for the end has it."""
    world = state()
    REQUESTS[first](world)
    REQUESTS[second](world)
    world.settle()
    assert world.is_over


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize(
    ("requests", "bound"),
    [
        (["TERM"], World.DRAIN + World.KILL_AFTER),
        (["HUP", "TERM"], World.DRAIN + World.KILL_AFTER),
        (["TERM", "HUP"], World.DRAIN + World.KILL_AFTER),
        (["TERM", "TERM"], World.KILL_AFTER),
        (["TERM", "QUIT"], World.KILL_AFTER),
        (["HUP", "QUIT"], World.KILL_AFTER),
        (["QUIT"], World.KILL_AFTER),
        (["QUIT", "TERM"], World.KILL_AFTER),
        (["QUIT", "QUIT"], World.KILL_AFTER),
    ],
)
def test_nobody_outstays_an_end(
    state: Callable[[], World], requests: list[str], bound: float
) -> None:
    """Who does nothing that it is asked is killed, in any state, after a drain or at once."""
    world = state()
    for name in requests:
        REQUESTS[name](world)
    world.pass_time(bound)
    assert {child.phase for child in world.everybody().values()} <= {Phase.KILLED}


@pytest.mark.parametrize("state", STATES)
def test_nobody_is_forked_after_a_stop(state: Callable[[], World]) -> None:
    """A stop cancels a reload that was wished for, and the replacement of whoever died."""
    world = state()
    world.term()
    generations = world.last_number
    world.settle()
    assert world.last_number == generations


def test_nothing_happens_to_who_serves_before_another_one_is_ready() -> None:
    """Who serves is left alone during a boot, and asked to leave after it."""
    world = reload_under_way()
    world.says_loaded(2)
    during = world.phase_of(1), world.phase_of(2)
    world.says_ready(2)
    assert during == (Phase.SERVING, Phase.BOOTING)
    assert (world.phase_of(1), world.phase_of(2)) == (Phase.STOPPING, Phase.SERVING)


def boot_dies(world: World, generation: int) -> None:
    """Let a generation die while it boots."""
    world.dies(generation)


def boot_fails(world: World, generation: int) -> None:
    """Let a generation say why it will not serve, and leave."""
    world.says_failed(generation)
    world.dies(generation)


def boot_hangs(world: World, generation: int) -> None:
    """Let a generation be killed for not being ready in time."""
    world.pass_time(World.BOOT + World.EVIDENCE)
    assert world.phase_of(generation) is Phase.KILLED
    world.dies(generation)


FAILURES = [boot_dies, boot_fails, boot_hangs]


@pytest.mark.parametrize("fail", FAILURES)
def test_a_failed_boot_leaves_who_serves_alone(fail: Callable[[World, int], None]) -> None:
    """The old generation goes on, and nothing is tried again before the user asks."""
    world = reload_under_way()
    fail(world, 2)
    world.pass_time(1000)
    assert {pid: leader.phase for pid, leader in world.leaders.items()} == {1: Phase.SERVING}
    assert (world.last_number, world.wake_at) == (2, None)


@pytest.mark.parametrize("fail", FAILURES)
def test_a_wish_outlives_the_boot_that_fails(fail: Callable[[World, int], None]) -> None:
    """A reload that was asked for during a boot follows its failure at once."""
    world = another_one_wished_for()
    fail(world, 2)
    assert (world.phase_of(1), world.phase_of(3)) == (Phase.SERVING, Phase.BOOTING)


@pytest.mark.parametrize("wishes", [1, 2, 7])
def test_wishes_during_a_boot_are_one_more_reload(wishes: int) -> None:
    """However often the user asks meanwhile, one more generation follows, and begins afterwards."""
    world = reload_under_way()
    for _ in range(wishes):
        world.hup()
    meanwhile = world.last_number
    world.settle()
    assert (meanwhile, world.last_number) == (2, 3)


@pytest.mark.parametrize("fail", FAILURES)
def test_nothing_is_tried_again_before_anything_has_served(
    fail: Callable[[World, int], None],
) -> None:
    """A first generation that fails is the end."""
    world = first_boot()
    fail(world, 1)
    assert (world.is_over, world.last_number) == (True, 1)


@pytest.mark.parametrize("pause", [0.0, 0.5])
def test_a_dead_leader_is_replaced_when_the_time_has_come(pause: float) -> None:
    """Another one is forked then, and neither sooner nor a second one."""
    world = all_well()
    world.dies(1, pause=pause)
    at_once = world.last_number
    world.pass_time(pause)
    assert (at_once, world.last_number) == (1 if pause else 2, 2)
    assert world.phase_of(2) is Phase.BOOTING


def test_a_wish_is_not_made_to_wait() -> None:
    """Whoever has mended the code need not sit out what its failures have earned."""
    world = backed_off()
    world.hup()
    assert world.phase_of(3) is Phase.BOOTING


def test_a_dead_leader_is_replaced_by_the_one_that_boots_already() -> None:
    """A generation that is under way when the serving one dies takes its place."""
    world = reload_under_way()
    world.dies(1)
    world.settle()
    assert (world.last_number, world.serving()) == (2, 2)


def test_a_generation_is_tried_for_ever() -> None:
    """Where something has served, failed boots are followed by others, half a minute apart."""
    world = all_well()
    world.dies(1)
    for generation in range(2, 30):
        world.dies(generation)
        world.pass_time(30)
    assert world.phase_of(30) is Phase.BOOTING


@pytest.mark.parametrize("state", [leader_died, backed_off])
def test_orphans_are_seen_out(state: Callable[[], World]) -> None:
    """Workers whose leader has died may finish, and are killed in the end."""
    world = state()
    asked = {orphan.phase for orphan in world.orphans.values()}
    world.pass_time(World.DRAIN)
    hurried = {orphan.phase for orphan in world.orphans.values()}
    world.pass_time(World.KILL_AFTER)
    killed = {orphan.phase for orphan in world.orphans.values()}
    assert (asked, hurried, killed) == ({Phase.STOPPING}, {Phase.HURRYING}, {Phase.KILLED})


class SupervisorsLife(RuleBasedStateMachine):
    """Any of that in any order."""

    @initialize(state=st.sampled_from(STATES))
    def it_begins(self, state: Callable[[], World]) -> None:
        """Begin anywhere: with the first boot alone, most lives would be short."""
        self.world = state()

    def draw(self, data: st.DataObject, pids: list[int]) -> int | None:
        """Draw one of these, if there are any."""
        return data.draw(st.sampled_from(pids)) if pids else None

    @rule(seconds=st.sampled_from([0.001, 0.25, 0.5, 2.0, 5.0, 10.0, 40.0]))
    def time_passes(self, seconds: float) -> None:
        """Let time pass."""
        self.world.pass_time(seconds)

    @rule(
        data=st.data(),
        says=st.sampled_from([World.says_loaded, World.says_ready, World.says_failed]),
    )
    def a_leader_speaks(self, data: st.DataObject, says: Callable[[World, int], None]) -> None:
        """Let a leader say something, at any time."""
        pid = self.draw(data, list(self.world.leaders))
        if pid is not None:
            says(self.world, pid)

    @rule(data=st.data(), orphans=st.integers(0, 2), pause=st.sampled_from([0.0, 0.5]))
    def a_leader_dies(self, data: st.DataObject, orphans: int, pause: float) -> None:
        """Let a leader die, asked or not."""
        pid = self.draw(data, list(self.world.leaders))
        if pid is not None:
            self.world.dies(pid, orphans, pause)

    @rule(data=st.data())
    def an_orphan_dies(self, data: st.DataObject) -> None:
        """Let an orphan die."""
        pid = self.draw(data, list(self.world.orphans))
        if pid is not None:
            self.world.orphan_dies(pid)

    @rule()
    def the_user_wants_a_reload(self) -> None:
        """HUP."""
        self.world.hup()

    @rule()
    def the_user_stops(self) -> None:
        """TERM."""
        self.world.term()

    @rule()
    def the_user_hurries(self) -> None:
        """QUIT."""
        self.world.quit()

    @rule(can_fork=st.booleans())
    def the_machine_changes(self, can_fork: bool) -> None:
        """Let there be room for processes, or not."""
        self.world.can_fork = can_fork

    @invariant()
    def one_generation_boots(self) -> None:
        """There is one at most that is neither ready nor was ever."""
        booting = [
            leader
            for leader in self.world.leaders.values()
            if leader.phase is Phase.BOOTING or leader.is_outdated
        ]
        assert len(booting) <= 1

    @invariant()
    def one_generation_serves(self) -> None:
        """All but the newest of those that are ready were asked to leave."""
        serving = self.world.among(Phase.SERVING)
        assert len(serving) <= (0 if self.world.phase.is_ending() else 1)

    @invariant()
    def no_orphan_stays(self) -> None:
        """All whose leader has died were asked to leave."""
        assert Phase.SERVING not in {orphan.phase for orphan in self.world.orphans.values()}

    @invariant()
    def somebody_will_serve(self) -> None:
        """While nobody serves or boots, another generation comes when its time has come."""
        world = self.world
        if world.phase.is_ending() or world.serving() is not None or world.is_booting():
            return
        assert world.wake_at is not None
        assert world.wake_at <= world.spawn_at

    @invariant()
    def a_wish_is_granted_when_it_can_be(self) -> None:
        """Nothing holds a reload up but a boot that has not ended, and its own time."""
        world = self.world
        may_wait = world.is_booting() or world.spawn_at > world.now or world.phase.is_ending()
        assert may_wait or not world.is_reload_wanted

    @invariant()
    def it_wakes_up_when_something_is_due(self) -> None:
        """Nobody who is due is overslept, and no generation that may come."""
        world = self.world
        moments = [c.due for c in world.everybody().values() if is_due(c, world.phase)]
        is_wanted = world.is_reload_wanted or world.serving() is None
        if is_wanted and not world.is_booting() and not world.phase.is_ending():
            moments.append(world.spawn_at)
        assert world.wake_at == min(moments, default=None)

    @invariant()
    def nobody_outlives_the_ladder(self) -> None:
        """Once asked, all are killed after a drain and a moment; late orphans after a moment."""
        world = self.world
        if world.asked_at is None:
            return
        drained_at = world.asked_at + World.DRAIN
        overdue = [
            child.phase
            for pid, child in world.everybody().items()
            if max(drained_at, world.born_at[pid]) + World.KILL_AFTER <= world.now
        ]
        assert set(overdue) <= {Phase.KILLED}

    def teardown(self) -> None:
        """See that a supervisor that is asked to stop does stop, whatever came before."""
        if hasattr(self, "world"):
            self.world.term()
            self.world.settle()
            assert self.world.is_over


SupervisorsLife.TestCase.settings = settings(
    max_examples=150, stateful_step_count=30, deadline=None, derandomize=True
)
TestSupervisorsLife = SupervisorsLife.TestCase
