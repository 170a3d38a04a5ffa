"""A thread for each live connection, and no more threads than it takes."""

import itertools
import signal
import threading
from functools import partial
from time import monotonic

from forkserve import signals
from forkserve.acceptor import accept_loop
from forkserve.door import GRACE, PAUSE
from forkserve.errors import NoThread
from forkserve.log import Seldom, log
from forkserve.run_handler import Inline
from forkserve.service import Service
from forkserve.wait import READABLE, Wait
from forkserve.wakeup import Wakeup

FIRST_LANES = 2
IDLE_LANES = 4  # so many finished threads may wait for the next connection
TICK = 0.002
STUCK_TICKS = 2
STEP = 32
CENSUS = 1.0


def lanes_to_add(stuck_ticks: int, lanes: int, most: int) -> int:
    """Return how many lanes to add, after so many ticks in which nobody came to the door."""
    if stuck_ticks < STUCK_TICKS:
        return 0
    return max(0, min(lanes, STEP, most - lanes))


def count_surplus(before: dict[Inline, int], now: dict[Inline, int]) -> int:
    """Return how many lanes to send away, given what each served (0: nothing) then and now.

    A lane that is held up by the connection it had before is needed, and so is one that was not
    there then; of the others a few are.
    """
    free = sum(
        not now[lane] or now[lane] != served for lane, served in before.items() if lane in now
    )
    return max(0, free - IDLE_LANES)


class Threaded:
    """accept_loop in as many threads (lanes) as there are connections that take their time.

    A lane accepts for itself and serves for itself: handing a connection to another thread would
    cost more than serving a short one. While a lane serves, others wait at the door. When the
    last one leaves it, it rings for the main thread, which adds lanes if for two ticks nobody has
    come back and nobody has accepted: then every lane is held up by its connection.
    """

    def __init__(self, threads: int | None = None) -> None:
        self._threads = threads

    def serve(self, service: Service) -> None:
        """Serve until stopped; blocks in the main thread, which serves no connection itself."""
        most = service.limit if self._threads is None else min(self._threads, service.limit)
        lanes = Lanes(service, most)
        lanes.run()


class Lanes:
    """The threads of one process that accept and serve, and the one that adds to them."""

    def __init__(self, service: Service, most: int) -> None:
        self._service = service
        self._most = most
        self._gate = Wakeup()
        wait = Wait()
        wait.register(self._gate.reader, READABLE)
        self._door = service.make_door(wait, attendance=self)
        self._door_wait = wait
        self._at_door: list[None] = []
        self._on_duty = False
        self._stuck_ticks = 0
        self._taken_at_last_tick = 0
        self._lanes = 0
        self._numbers = itertools.count(1)
        self._no_thread_until = 0.0
        self._no_thread = Seldom()
        self._gate_opens_at: float | None = None
        self._is_gate_open = False
        self._surplus = 0
        self._served: dict[Inline, int] = {}
        self._census_at = 0.0
        self._failure: BaseException | None = None
        self._opening = threading.Lock()  # held until we are ready, taken once by each lane
        self._leaving = threading.Lock()  # taken when a lane ends, never for a connection

    # -- Attendance: called by the lanes

    def arrive(self) -> float | None:
        """Let a lane wait, unless enough do."""
        if not self._door.is_paused:  # else somebody must be there when the pause is over
            if self._surplus > 0:
                self._surplus -= 1
                return 0
            if len(self._at_door) >= IDLE_LANES:
                return 0
        self._at_door.append(None)
        self._on_duty = False  # so that the last who leaves rings again
        return None

    def leave(self) -> None:
        """Ring for the main thread if nobody waits any more."""
        self._at_door.pop()
        if not self._at_door and not self._on_duty:
            self._on_duty = True
            self._service.wakeup.ring()

    def _run_lane(self, lane: Inline) -> None:
        with self._opening:
            pass  # a handler that ends this process must not make it one that was never ready
        try:
            accept_loop(self._door, lane.dispatch)
        except BaseException as error:
            self._failure = error
            self._service.stop.retire()
        finally:
            with self._leaving:
                self._service.lanes.remove(lane)
                try:
                    self._see_lane_off()
                except OSError:  # a handler has closed what is ours: the main thread is to see it
                    signal.pthread_kill(threading.main_thread().ident or 0, signals.INTERRUPT)

    def _see_lane_off(self) -> None:
        if self._on_duty:
            self._service.wakeup.ring()  # there is room for another
        if self._service.stop.is_set:
            if not self._service.lanes:
                self._door.close()  # here, just after finding the queue empty
            self._service.wakeup.ring()

    # -- the main thread

    def run(self) -> None:
        """Start the first lanes, add to them as needed, and see the last one out."""
        with self._opening:
            try:
                self._add(min(FIRST_LANES, self._most))
            except RuntimeError as error:
                raise NoThread(f"cannot start a thread: {error}") from error
            self._service.say_ready()
        stop = self._service.stop
        while self._service.lanes or not stop.is_set:
            self._wait(self._timeout())
            now = monotonic()
            if stop.is_set:
                self._close_door(now)
            elif self._on_duty:
                self._look(now)
        with self._leaving:  # the last lane may have been about to ring
            self._door.close()
        self._see_off()
        self._door_wait.close()
        self._gate.close()
        if self._failure is not None:
            raise self._failure

    def _wait(self, timeout: float | None) -> None:
        pulse = self._service.pulse
        if pulse is not None:
            pulse.fall_asleep()
        self._service.wait.poll(timeout)
        if pulse is not None:
            pulse.wake_up()

    def _see_off(self) -> None:
        """Do what the lanes did for peers that have yet to close."""
        wait = self._service.wait
        self._door_wait.unregister(self._gate.reader)
        wait.watch(self._door_wait.fileno(), partial(self._door.see_off, block=False))
        self._door.see_off(block=False)
        while self._door.has_lingering() and not self._service.stop.is_hurried:
            wait.poll(self._door.patience())
            self._door.see_off(block=False)
        wait.forget(self._door_wait.fileno())

    def _timeout(self) -> float | None:
        if self._is_gate_open:
            return None  # until the last lane rings
        if self._gate_opens_at is not None:
            return max(0.0, self._gate_opens_at - monotonic())
        if not self._on_duty:
            return None
        return TICK if self._can_grow() else self._door.patience()

    def _can_grow(self) -> bool:
        return self._lanes < self._most

    def _look(self, now: float) -> None:
        """One tick: go off duty when somebody waits at the door, else see whether all are stuck."""
        self._lanes = len(self._service.lanes)
        if now >= self._census_at:
            self._take_census(now)
        if self._at_door:
            self._on_duty = False
            self._stuck_ticks = 0
            return
        if self._door.taken != self._taken_at_last_tick:
            self._taken_at_last_tick = self._door.taken
            self._stuck_ticks = 0
            return
        self._door.see_off(block=False)  # no lane is there to do it
        self._stuck_ticks += 1
        if now >= self._no_thread_until:
            self._add(lanes_to_add(self._stuck_ticks, self._lanes, self._most))

    def _take_census(self, now: float) -> None:
        """Send lanes away that a burst has called and that do but get in each other's way."""
        is_fresh = now < self._census_at + CENSUS  # else nobody has looked for a while
        before = self._served if is_fresh else {}
        self._served = {
            lane: 0 if lane.current is None else id(lane.current)
            for lane in tuple(self._service.lanes)
        }
        self._surplus = count_surplus(before, self._served)
        self._census_at = now + CENSUS

    def _add(self, count: int) -> None:
        for _ in range(count):
            lane = self._service.make_lane(self._door.linger)
            try:
                threading.Thread(
                    target=self._run_lane,
                    args=[lane],
                    name=f"forkserve-lane-{next(self._numbers)}",  # some handlers go by the name
                    daemon=True,
                ).start()
            except RuntimeError as error:
                self._service.lanes.remove(lane)
                if not self._service.lanes:
                    raise
                self._say_no_thread(error)
                return

    def _say_no_thread(self, error: RuntimeError) -> None:
        now = monotonic()
        self._no_thread_until = now + PAUSE
        if self._no_thread.is_due(now):
            log.warning("cannot add a thread: %s; clients wait until one is free", error)

    def _close_door(self, now: float) -> None:
        """Let the lanes that wait go, once whoever is about to come has come."""
        if self._is_gate_open:
            return
        stop = self._service.stop
        is_urgent = stop.is_hurried or stop.is_retired
        if self._gate_opens_at is None:
            self._gate_opens_at = now + GRACE
        if is_urgent or now >= self._gate_opens_at:
            self._is_gate_open = True
            self._door.is_closing = True
            if not (self._at_door or is_urgent) and self._can_grow():
                self._add(1)  # all are held up: somebody has to see to the queue
            self._gate.ring()
