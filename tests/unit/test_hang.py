"""Who hangs, as tables and as what holds of every course of events."""

from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from forkserve.process.hang import (
    DUMP_PAUSE,
    INTERRUPT_PAUSE,
    LATE,
    OFTEN,
    Act,
    Kind,
    Sight,
    Timeouts,
    Verdict,
    Watch,
)
from forkserve.scoreboard import Held

BEGAN = 1000.0
PID = 7
CONNECTION = Timeouts(connection=5.0)
LIVENESS = Timeouts(liveness=30.0)
BOTH = Timeouts(connection=5.0, liveness=30.0)
EVERY_KIND = [Kind.INLINE, Kind.THREADS, Kind.CHILDREN]


def held(lane: int = 0, *, extended: float = 0.0, interrupted: float = 0.0) -> Held:
    """Return a connection that began at BEGAN; the other moments are seconds after that."""
    return Held(
        lane,
        BEGAN,
        BEGAN + extended if extended else 0.0,
        BEGAN + interrupted if interrupted else 0.0,
        "192.0.2.7:4711",
    )


def serving(*connections: Held) -> Sight:
    """Return a process that is busy with connections, as its loop does or threads beside it."""
    return Sight(PID, connections or (held(),), awake_since=BEGAN, last_began=BEGAN)


awake = Sight(PID, (), awake_since=BEGAN, last_began=-BEGAN)
asleep = Sight(PID, (), last_began=-BEGAN)
stopped = Sight(PID, (), stopped_since=BEGAN)

Course = list[tuple[float, Act]]


def course(
    watch: Watch, see: Sight | Callable[[float], Sight], until: float, since: float = 0.0
) -> Course:
    """Look whenever the watch wants to; return its verdicts and when, seconds after BEGAN."""
    now, given = BEGAN + since, []
    while now <= BEGAN + until:
        sight = see if isinstance(see, Sight) else see(now)
        verdicts = watch.look([sight], now)
        given += [(round(now - BEGAN, 6), verdict.act) for verdict in verdicts]
        if watch.wake_at is None:
            break
        assert watch.wake_at > now, "it would be asked for ever"
        now = watch.wake_at
    return given


def ladder(due: float) -> Course:
    """Return what is done about a connection that has lasted too long."""
    return [
        (due, Act.INTERRUPT),
        (round(due + INTERRUPT_PAUSE, 6), Act.DUMP),
        (round(due + INTERRUPT_PAUSE + DUMP_PAUSE, 6), Act.KILL),
    ]


# -- a connection that lasts too long


@pytest.mark.parametrize(
    ("kind", "connection", "given"),
    [
        pytest.param(Kind.INLINE, held(), ladder(5.0), id="served in the loop"),
        pytest.param(Kind.THREADS, held(), ladder(5.0), id="in a thread, and nobody interrupts it"),
        pytest.param(
            Kind.THREADS,
            held(interrupted=5.0),
            [(5.0, Act.INTERRUPT), (5.4, Act.REPLACE)],
            id="in a thread that does not end",
        ),
        pytest.param(
            Kind.THREADS,
            held(interrupted=4.9),
            ladder(5.0),
            id="in a thread that was interrupted for another reason",
        ),
        pytest.param(
            Kind.THREADS,
            held(extended=50.0, interrupted=5.0),
            ladder(50.0),
            id="in a thread that was interrupted, and extended since",
        ),
        pytest.param(Kind.CHILDREN, held(), [], id="in a child: its parent's business"),
        pytest.param(Kind.INLINE, held(extended=8.0), ladder(8.0), id="extended"),
        pytest.param(Kind.INLINE, held(extended=2.0), ladder(5.0), id="extended by too little"),
    ],
)
def test_a_connection_that_lasts_too_long(kind: Kind, connection: Held, given: Course) -> None:
    """It is interrupted at its deadline, and its process shown and killed if that does not help."""
    assert course(Watch(CONNECTION, kind), serving(connection), 100.0) == given


def test_without_a_connection_timeout() -> None:
    """A connection may last as long as it likes."""
    assert course(Watch(LIVENESS, Kind.INLINE), serving(), 1000.0) == []


def test_a_connection_that_ends_in_time() -> None:
    """The next one on the same lane has all its time again."""

    def see(now: float) -> Sight:
        began = BEGAN + (now - BEGAN) // 4.9 * 4.9
        return Sight(PID, (held()._replace(began=began),), began, began)

    watch = Watch(CONNECTION, Kind.INLINE)
    looks = [watch.look([see(BEGAN + n / 10)], BEGAN + n / 10) for n in range(500)]
    assert not any(looks)


def test_each_connection_of_a_process_has_its_own_time() -> None:
    """One thread's connection is cut while another's goes on."""
    late = held(1)._replace(began=BEGAN + 3)
    given = course(Watch(CONNECTION, Kind.THREADS), serving(held(), late), 8.0)
    assert [act for at, act in given if at == 5.0] == [Act.INTERRUPT]
    assert (8.0, Act.INTERRUPT) in given


def test_a_verdict_names_the_peer() -> None:
    """The reason says which timeout it was, who the peer is, and for how long it was served."""
    watch = Watch(CONNECTION, Kind.INLINE)
    watch.look([serving()], BEGAN)
    (verdict,) = watch.look([serving()], BEGAN + 5.0)
    assert verdict == Verdict(
        PID, Act.INTERRUPT, "connection timeout: 192.0.2.7:4711 is served for 5.0 s"
    )


def test_a_verdict_is_given_once() -> None:
    """However often one looks."""
    watch = Watch(CONNECTION, Kind.INLINE)
    moments = [BEGAN + n / 100 for n in range(1000)]
    given = [verdict.act for now in moments for verdict in watch.look([serving()], now)]
    assert given == [Act.INTERRUPT, Act.DUMP, Act.KILL]


def test_who_comes_later_with_the_same_process_id_has_its_own_verdicts() -> None:
    """What was said of a process is forgotten when it is gone."""
    watch = Watch(CONNECTION, Kind.INLINE)
    assert course(watch, serving(), 10.0) == ladder(5.0)
    watch.look([], BEGAN + 10.0)
    again = serving(held()._replace(began=BEGAN + 10))._replace(awake_since=BEGAN + 10)
    given = [(at - 10, act) for at, act in course(watch, again, 20.0, since=10.0)]
    assert [act for _, act in given] == [act for _, act in ladder(5.0)]


@pytest.mark.parametrize("late", [0.0, 0.1, LATE - 0.01])
def test_looks_that_are_a_little_late_skip_no_rung(late: float) -> None:
    """A handler has its time to end, and its stack to be written, from when that was asked for."""
    watch = Watch(CONNECTION, Kind.INLINE)
    watch.look([serving()], BEGAN)
    given: list[Act] = []
    while Act.KILL not in given:
        assert watch.wake_at is not None
        verdicts = watch.look([serving()], watch.wake_at + late)
        given += [verdict.act for verdict in verdicts]
        assert len(verdicts) <= 1
    assert given == [Act.INTERRUPT, Act.DUMP, Act.KILL]


def test_connections_that_were_cut_are_forgotten() -> None:
    """A watch does not grow by every connection that it has ever cut."""
    watch = Watch(CONNECTION, Kind.INLINE)
    sizes = []
    for number in range(100):
        began = BEGAN + 10 * number
        sight = serving(held()._replace(began=began))._replace(awake_since=began)
        for now in (began, began + 5.0):
            watch.look([sight], now)
        watch.look([asleep], began + 5.1)
        sizes.append(len(str(vars(watch))))
    assert sizes[-1] < sizes[0] + 100


def test_a_connection_that_is_extended_on_the_ladder() -> None:
    """Whoever asks for more time when it is interrupted has it, and the whole ladder after it."""

    def see(now: float) -> Sight:
        return serving(held(extended=20.0 if now > BEGAN + 5.1 else 0.0))

    given = course(Watch(CONNECTION, Kind.INLINE), see, 100.0)
    assert given == [(5.0, Act.INTERRUPT), *ladder(20.0)]


# -- a worker that leaves because of such a connection

stuck = held(interrupted=5.0)
leaving = serving(stuck)._replace(is_leaving=True)


def test_a_worker_that_leaves_and_has_nothing_else() -> None:
    """It is waited for no longer, when all that it holds are threads that do not end."""
    given = course(Watch(CONNECTION, Kind.THREADS), leaving, 100.0)
    assert [act for _, act in given] == [Act.INTERRUPT, Act.REPLACE, Act.KILL]
    assert given[-1][0] < 11.0


def test_a_worker_that_does_not_leave() -> None:
    """One that serves on is not killed for a thread that does not end."""
    given = course(Watch(CONNECTION, Kind.THREADS), serving(stuck), 1000.0)
    assert [act for _, act in given] == [Act.INTERRUPT, Act.REPLACE]


def test_a_worker_that_leaves_finishes_what_is_in_time() -> None:
    """Others' connections are not ended for the one that hangs."""
    other = held(1, extended=50.0)
    sight = leaving._replace(held=(stuck, other))
    given = course(Watch(CONNECTION, Kind.THREADS), sight, 49.0)
    assert [act for _, act in given] == [Act.INTERRUPT, Act.REPLACE]


def test_a_worker_that_leaves_in_time() -> None:
    """Whoever is asked to stop while it serves has all its connection's time."""
    sight = serving()._replace(is_leaving=True)
    assert course(Watch(CONNECTION, Kind.INLINE), sight, 100.0) == ladder(5.0)


# -- a loop that does not come back


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_a_loop_that_does_not_come_back(kind: Kind) -> None:
    """A process that is awake and serves nothing is shown, and killed a moment after."""
    given = course(Watch(LIVENESS, kind), awake, 100.0)
    assert given == [(30.0, Act.DUMP), (30.0 + DUMP_PAUSE, Act.KILL)]


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_a_loop_that_sleeps(kind: Kind) -> None:
    """A process that waits is healthy for ever, and nobody need look at it."""
    watch = Watch(BOTH, kind)
    assert watch.look([asleep], BEGAN) == []
    assert watch.wake_at is None
    assert watch.look([asleep], BEGAN + 1e6) == []
    assert watch.wake_at is None


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        (Kind.INLINE, []),
        (Kind.THREADS, [Act.DUMP, Act.KILL]),
        (Kind.CHILDREN, [Act.DUMP, Act.KILL]),
    ],
)
def test_a_loop_beside_what_is_served(kind: Kind, given: list[Act]) -> None:
    """What serves in its loop is where its handler is; who serves elsewhere has no such excuse."""
    assert [act for _, act in course(Watch(LIVENESS, kind), serving(), 100.0)] == given


@pytest.mark.parametrize("field", ["awake_since", "last_began"])
def test_a_loop_that_goes_round(field: str) -> None:
    """One that has slept since, or has served since without a sleep, is alive."""

    def see(now: float) -> Sight:
        turn = BEGAN + (now - BEGAN) // 20 * 20
        if field == "awake_since":
            return awake._replace(awake_since=turn)
        return awake._replace(last_began=-turn)

    assert course(Watch(LIVENESS, Kind.INLINE), see, 200.0) == []


def test_a_loop_that_hangs_after_it_has_served() -> None:
    """Its time runs from when nothing was served any more."""

    def see(now: float) -> Sight:
        return serving() if now < BEGAN + 50 else awake

    (dump, kill) = course(Watch(LIVENESS, Kind.INLINE), see, 200.0)
    assert (dump[1], kill[1]) == (Act.DUMP, Act.KILL)
    assert 80.0 <= dump[0] <= 90.0


def test_without_a_liveness_timeout() -> None:
    """A loop may take as long as it likes."""
    assert course(Watch(CONNECTION, Kind.INLINE), awake, 1000.0) == []


@pytest.mark.parametrize(
    ("share", "dumped_at"), [(0.0, 30.0), (0.25, 40.0), (0.5, 60.0), (0.9, 300.0)]
)
def test_a_process_that_gets_little_processor(share: float, dumped_at: float) -> None:
    """What it has waited for a CPU is not its fault: that is added to its time."""

    def see(now: float) -> Sight:
        return awake._replace(run_delay=100.0 + (now - BEGAN) * share)

    (dump, kill) = course(Watch(LIVENESS, Kind.INLINE), see, 400.0)
    assert (dump[1], kill[1]) == (Act.DUMP, Act.KILL)
    assert dumped_at <= dump[0] < dumped_at + 1.0


def test_a_process_that_gets_no_processor() -> None:
    """Who only waits for a CPU does not hang."""

    def see(now: float) -> Sight:
        return awake._replace(run_delay=now - BEGAN)

    assert course(Watch(LIVENESS, Kind.INLINE), see, 1000.0) == []


# -- a process that was stopped


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_a_stopped_process(kind: Kind) -> None:
    """A process that is stopped for as long as the liveness timeout is killed."""
    assert course(Watch(BOTH, kind), stopped, 100.0) == [(30.0, Act.KILL)]


def test_a_stopped_process_is_left_alone_without_a_liveness_timeout() -> None:
    """Whoever debugs a handler turns it off."""
    assert course(Watch(Timeouts(), Kind.INLINE), stopped, 100.0) == []


def test_a_process_that_goes_on_in_time() -> None:
    """One that was stopped and continued is as good as any other."""
    watch = Watch(BOTH, Kind.INLINE)
    sights = [stopped] * 29 + [asleep] * 71
    looks = [watch.look([sight], BEGAN + n) for n, sight in enumerate(sights)]
    assert not any(looks)


def test_a_stopped_process_does_not_hang() -> None:
    """While it is stopped its connection is not its fault."""
    see = serving()._replace(stopped_since=BEGAN + 1)
    assert course(Watch(BOTH, Kind.INLINE), see, 100.0) == [(31.0, Act.KILL)]


# -- who comes late himself


@pytest.mark.parametrize(
    ("timeouts", "sight", "first"),
    [
        pytest.param(CONNECTION, serving(), (5.0, Act.INTERRUPT), id="a connection"),
        pytest.param(LIVENESS, awake, (30.0, Act.DUMP), id="a loop"),
        pytest.param(LIVENESS, stopped, (30.0, Act.KILL), id="a stopped process"),
    ],
)
@pytest.mark.parametrize("late", [1.0, 3600.0])
def test_a_late_look_excuses_everybody(
    late: float, timeouts: Timeouts, sight: Sight, first: tuple[float, Act]
) -> None:
    """Who was suspended, or starved, lets one whole timeout pass: so may the others have been."""
    watch = Watch(timeouts, Kind.INLINE)
    watch.look([sight], BEGAN)
    assert watch.wake_at is not None
    after = watch.wake_at - BEGAN + late
    given = course(watch, sight, after + 100.0, since=after)
    assert (round(given[0][0] - after, 6), given[0][1]) == first


@pytest.mark.parametrize("late", [0.0, 0.3])
def test_a_look_on_time_excuses_nobody(late: float) -> None:
    """A busy machine's small delays are no excuse."""
    watch = Watch(LIVENESS, Kind.INLINE)
    now, first = BEGAN, watch.look([awake], BEGAN)
    while now < BEGAN + 40 and not first:
        assert watch.wake_at is not None
        now = watch.wake_at + late
        first = watch.look([awake], now)
    assert [verdict.act for verdict in first] == [Act.DUMP]
    assert BEGAN + 30 <= now <= BEGAN + 30.5


def test_a_nap_excuses_nobody() -> None:
    """Who had nothing to look at comes when he is rung for, however long that was."""
    watch = Watch(CONNECTION, Kind.INLINE)
    watch.look([asleep], BEGAN - 1000)
    assert course(watch, serving(), 100.0) == ladder(5.0)


def test_an_alarm_that_was_set_and_comes_late_excuses() -> None:
    """Who expected to look at a moment and comes long after it was suspended."""
    watch = Watch(CONNECTION, Kind.INLINE)
    watch.expect(BEGAN + 5)
    assert watch.look([serving()], BEGAN + 60) == []
    assert course(watch, serving(), 100.0, since=60.0) == ladder(65.0)


# -- when to look again


@pytest.mark.parametrize(
    ("timeouts", "kind", "sight"),
    [
        pytest.param(CONNECTION, Kind.INLINE, serving(), id="a connection is served"),
        pytest.param(CONNECTION, Kind.THREADS, serving(), id="in a thread"),
        pytest.param(CONNECTION, Kind.INLINE, awake, id="one may be served without a ring"),
        pytest.param(LIVENESS, Kind.INLINE, serving(), id="a loop will come out of its handler"),
        pytest.param(LIVENESS, Kind.INLINE, awake, id="a loop is awake"),
        pytest.param(LIVENESS, Kind.CHILDREN, awake, id="one that forks"),
        pytest.param(LIVENESS, Kind.INLINE, stopped, id="a process is stopped"),
    ],
)
def test_who_is_awake_is_looked_at_again(timeouts: Timeouts, kind: Kind, sight: Sight) -> None:
    """A leader with somebody awake has a moment to look again: who is awake does not ring."""
    watch = Watch(timeouts, kind)
    watch.look([sight], BEGAN)
    assert watch.wake_at is not None
    assert BEGAN < watch.wake_at <= BEGAN + 30.0


@pytest.mark.parametrize(
    ("timeouts", "kind", "sight"),
    [
        pytest.param(CONNECTION, Kind.CHILDREN, awake, id="one that looks at its own children"),
        pytest.param(
            CONNECTION, Kind.INLINE, serving()._replace(stopped_since=BEGAN), id="one in a debugger"
        ),
        pytest.param(LIVENESS, Kind.THREADS, asleep._replace(held=(held(),)), id="threads at work"),
    ],
)
def test_who_can_do_no_wrong_is_not_looked_at(timeouts: Timeouts, kind: Kind, sight: Sight) -> None:
    """A leader sleeps without a timer while nothing that it sees can become due."""
    watch = Watch(timeouts, kind)
    assert watch.look([sight], BEGAN) == []
    assert watch.wake_at is None


def test_who_has_rung_is_looked_at_twice() -> None:
    """A worker rings before it writes what it begins."""
    watch = Watch(CONNECTION, Kind.INLINE)
    watch.look([asleep], BEGAN, was_rung=True)
    assert watch.wake_at == BEGAN + OFTEN
    watch.look([asleep], BEGAN + OFTEN)
    assert watch.wake_at is None


def test_nobody_is_there() -> None:
    """A leader without workers need not look."""
    watch = Watch(BOTH, Kind.INLINE)
    assert watch.look([], BEGAN) == []
    assert watch.wake_at is None


def test_every_process_has_its_own_verdict() -> None:
    """Those that hang together are seen to together, in the order in which they were seen."""
    watch = Watch(CONNECTION, Kind.INLINE)
    sights = [serving()._replace(pid=pid) for pid in (3, 1, 2)]
    watch.look(sights, BEGAN)
    assert [verdict.pid for verdict in watch.look(sights, BEGAN + 5.0)] == [3, 1, 2]


# -- every course of events


class Life(RuleBasedStateMachine):
    """A leader that looks when it should, and workers that do as they like."""

    KIND = Kind.INLINE
    LANES = 1
    TIMEOUTS = Timeouts(connection=5.0, liveness=7.0)
    PIDS = (1, 2, 3)

    def __init__(self) -> None:
        super().__init__()
        self.now = BEGAN
        self.watch = Watch(self.TIMEOUTS, self.KIND)
        self.sights = {pid: Sight(pid, ()) for pid in self.PIDS}
        self.awake_from = dict.fromkeys(self.PIDS, BEGAN)
        self.excused_until = 0.0
        self.given: set[tuple[int, Act, object]] = set()
        self.replaced: set[int] = set()
        self.look()

    def look(self) -> None:
        """Look, and hold each verdict to what every verdict must be."""
        for verdict in self.watch.look(tuple(self.sights.values()), self.now):
            sight = self.sights[verdict.pid]
            assert self.is_due(sight), f"{verdict} before its time"
            self.carry_out(verdict, sight)

    def is_due(self, sight: Sight) -> bool:
        """Tell whether anything about a process has lasted too long."""
        now, timeouts = self.now + 1e-6, self.TIMEOUTS
        if sight.stopped_since:
            return now >= sight.stopped_since + timeouts.liveness
        connections = [
            now >= max(one.began + timeouts.connection, one.extended) for one in sight.held
        ]
        is_stuck = sight.awake_since > 0 and now >= sight.awake_since + timeouts.liveness
        return any(connections) or is_stuck

    def carry_out(self, verdict: Verdict, sight: Sight) -> None:
        """Do it; nothing is done twice about the same."""
        key = verdict.pid, verdict.act, (sight.held, sight.awake_since, sight.stopped_since)
        assert len(sight.held) > 1 or key not in self.given, f"{verdict} again"
        self.given.add(key)
        if verdict.act is Act.KILL:
            self.sights[verdict.pid] = Sight(verdict.pid, ())
            self.replaced.discard(verdict.pid)
        elif verdict.act is Act.REPLACE:
            assert self.KIND is Kind.THREADS
            self.replaced.add(verdict.pid)
            self.sights[verdict.pid] = sight._replace(is_leaving=True)

    @rule(seconds=st.floats(0.001, 20.0), late=st.sampled_from([0.0, 0.0, 0.1]))
    def time_passes(self, seconds: float, late: float) -> None:
        """Let time pass, looking whenever the watch wants to, or a little later."""
        until = self.now + seconds
        while self.watch.wake_at is not None and self.watch.wake_at <= until:
            assert self.watch.wake_at > self.now
            self.now = self.watch.wake_at + late
            self.look()
        self.now = max(self.now, until)

    @rule(seconds=st.floats(1.0, 100.0))
    def the_leader_is_suspended(self, seconds: float) -> None:
        """Let time pass without a look."""
        if self.watch.wake_at is not None:
            self.now = self.watch.wake_at + seconds
            self.excused_until = self.now
            self.given.clear()
            self.look()

    @rule(pid=st.sampled_from(PIDS), lane=st.integers(0, 2))
    def a_connection_begins(self, pid: int, lane: int) -> None:
        """Let a worker serve, in its loop or beside it."""
        sight = self.sights[pid]
        lane %= self.LANES
        if sight.stopped_since or (sight.held and self.LANES == 1):
            return
        others = [one for one in sight.held if one.lane != lane]
        connections = (*others, Held(lane, self.now, 0.0, 0.0, "peer"))
        awake_since = self.now if self.KIND is Kind.INLINE else sight.awake_since
        self.sights[pid] = sight._replace(
            held=connections, awake_since=awake_since, last_began=self.now
        )
        self.look()

    @rule(pid=st.sampled_from(PIDS), seconds=st.floats(0.0, 20.0))
    def a_connection_is_extended(self, pid: int, seconds: float) -> None:
        """Let a handler ask for more time."""
        sight = self.sights[pid]
        if not sight.stopped_since:
            more = tuple(one._replace(extended=self.now + seconds) for one in sight.held[:1])
            self.sights[pid] = sight._replace(held=(*more, *sight.held[1:]))

    @rule(pid=st.sampled_from(PIDS))
    def a_worker_interrupts_what_is_overdue(self, pid: int) -> None:
        """Let a worker do what the leader has asked it to."""
        sight = self.sights[pid]
        if self.is_due(sight) and not sight.stopped_since:
            told = tuple(one._replace(interrupted=self.now) for one in sight.held)
            self.sights[pid] = sight._replace(held=told)

    @rule(pid=st.sampled_from(PIDS))
    def a_worker_falls_asleep(self, pid: int) -> None:
        """Let a worker's handlers end and its loop wait."""
        if not self.sights[pid].stopped_since:
            self.sights[pid] = Sight(pid, (), last_began=-self.now)
            self.replaced.discard(pid)

    @rule(pid=st.sampled_from(PIDS))
    def a_loop_hangs(self, pid: int) -> None:
        """Let a loop do something else."""
        sight = self.sights[pid]
        if not (sight.awake_since or sight.stopped_since):
            self.sights[pid] = sight._replace(awake_since=self.now)
            self.look()

    @rule(pid=st.sampled_from(PIDS))
    def a_worker_is_stopped_or_goes_on(self, pid: int) -> None:
        """SIGSTOP, SIGCONT: the leader is told."""
        sight = self.sights[pid]
        self.given.clear()
        since = 0.0 if sight.stopped_since else self.now
        self.sights[pid] = sight._replace(stopped_since=since)
        self.look()

    @precondition(lambda self: any(s.held or s.awake_since for s in self.sights.values()))
    @invariant()
    def somebody_looks_again(self) -> None:
        """While anybody is awake, or served, there is a moment to look again."""
        assert self.watch.wake_at is not None

    @invariant()
    def nobody_escapes(self) -> None:
        """See that what is overdue has gone all the way down the ladder soon after."""
        patience = INTERRUPT_PAUSE + DUMP_PAUSE + 3 * 0.1 + 1e-6
        for pid, sight in self.sights.items():
            begun = [
                max(one.began, self.excused_until) + self.TIMEOUTS.connection for one in sight.held
            ]
            due = [max(at, one.extended) for at, one in zip(begun, sight.held, strict=True)]
            is_excused = sight.stopped_since or pid in self.replaced
            assert is_excused or not due or self.now <= min(due) + patience


class LifeInThreads(Life):
    """The same with several connections at a time beside the loop."""

    KIND = Kind.THREADS
    LANES = 3


Life.TestCase.settings = settings(
    max_examples=30, stateful_step_count=25, deadline=None, derandomize=True
)
LifeInThreads.TestCase.settings = Life.TestCase.settings
TestLife = Life.TestCase
TestLifeInThreads = LifeInThreads.TestCase
