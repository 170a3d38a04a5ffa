"""What a strategy needs to serve in one process."""

from collections.abc import Callable, Sequence
from time import monotonic
from typing import TYPE_CHECKING

from forkserve.acceptor import Dispatcher
from forkserve.alarm import Alarm
from forkserve.binding import AnyListener
from forkserve.door import Attendance, Door
from forkserve.handler import Serve
from forkserve.hooks import Hooks
from forkserve.pulse import Pulse
from forkserve.run_handler import Inline, make_run_datagram, make_run_handler
from forkserve.scoreboard import BEGAN, EXTENDED, INTERRUPTED, Slot
from forkserve.stop import Stop
from forkserve.wait import Wait
from forkserve.wakeup import Wakeup

if TYPE_CHECKING:
    MakeDispatcher = Callable[[Serve], Dispatcher]


class Service:
    """The listeners, the handler, the bounds and the stop of one serving process.

    Made before the fork; open() makes, in the process that serves, what must not be shared.
    """

    def __init__(
        self,
        listeners: Sequence[AnyListener],
        serve: Serve,
        stop: Stop,
        *,
        limit: int,
        is_shared: bool,
        connection_timeout: float = 0.0,
        liveness_timeout: float = 0.0,
        hooks: Hooks = Hooks(),  # noqa: B008
        access_log: bool = False,
        make_dispatcher: "MakeDispatcher | None" = None,
    ) -> None:
        self.listeners = listeners
        self.stop = stop
        self.limit = limit
        self.is_shared = is_shared  # whether other processes wait on the same listeners
        self.connection_timeout = connection_timeout  # seconds, 0 for none
        self.liveness_timeout = liveness_timeout
        self.hooks = hooks
        self.alarm = Alarm()
        self.say_ready: Callable[[], None] = _say_nothing  # called once by who begins to serve
        self.child_died = False
        self.lanes: list[Inline] = []
        self.wait: Wait
        self.wakeup: Wakeup
        self.slot: Slot
        self.pulse: Pulse | None = None
        self.lifeline: int | None = None
        self.attend: Callable[[], None] = self.interrupt_as_asked
        self._serve = serve
        self._access_log = access_log
        self._make_dispatcher = make_dispatcher

    def open(
        self,
        slot: Slot,
        lifeline: int | None = None,
        *,
        is_watched: bool = False,
        owns_listeners: bool = False,
    ) -> None:
        """Make this process's own wait, and show in this slot what it is at.

        A lifeline is a pipe that ends when the parent does; a parent that watches wants to know
        when the loop waits and when it does not.
        """
        self.slot = slot
        self._owns_listeners = owns_listeners
        self.pulse = Pulse(slot, is_loop=True) if is_watched else None
        self.wait = Wait()
        self.wakeup = Wakeup()
        self.wait.watch(self.wakeup.reader, self._on_wakeup)
        self.lifeline = lifeline
        if lifeline is not None:
            self.wait.watch(lifeline, self._on_orphaned)

    def descriptors(self) -> list[int]:
        """Return what open() made and was given, which is of no use to a child."""
        made = [self.wait.fileno(), self.wakeup.reader, self.wakeup.writer]
        return made if self.lifeline is None else [*made, self.lifeline]

    def close(self) -> None:
        """Give back what open() made."""
        self.wait.close()
        self.wakeup.close()

    def _on_wakeup(self) -> None:
        self.wakeup.drain()
        if self.stop.is_set and self._owns_listeners:
            for listener in self.listeners:
                listener.quiesce()
        self.attend()

    def _on_orphaned(self) -> None:
        if self.lifeline is not None:
            self.wait.forget(self.lifeline)
        self.stop.retire()
        self.attend()

    # -- building blocks

    def make_door(self, wait: Wait | None = None, attendance: Attendance | None = None) -> Door:
        """Return a door to this process's listeners."""
        return Door(
            self.listeners,
            self.stop,
            self.limit,
            wait or self.wait,
            on_stop=lambda: self.attend(),
            is_shared=self.is_shared,
            attendance=attendance,
            pulse=self.pulse if wait is None or self.pulse is None else self.pulse.beside_a_loop(),
        )

    def make_run_handler(self, close: Serve, lane: Inline) -> Serve:
        """Return the function that serves a request, shown by a lane, and gives it to close."""
        if all(listener.is_datagram for listener in self.listeners) and not self._access_log:
            return make_run_datagram(self._serve, self.stop, lane, self.slot)
        return make_run_handler(
            self._serve, close, self.stop, lane, self.slot, access_log=self._access_log
        )

    def make_lane(self, close: Serve) -> Inline:
        """Return a dispatcher that serves here, known to interrupt_as_asked() until it leaves."""
        taken = {lane.number for lane in tuple(self.lanes)}
        last = self.slot.lanes - 1  # shared by any that are too many: it is only shown
        number = next((n for n in range(last) if n not in taken), last)
        lane = Inline(number, self.slot.record(number))
        lane.dispatch = self.make_run_handler(close, lane)
        self.lanes.append(lane)
        return lane

    def make_dispatcher(self, close: Serve) -> Dispatcher:
        """Return the user's own dispatcher, or one that serves here."""
        if self._make_dispatcher is not None:
            return self._make_dispatcher(self.make_lane(close).dispatch)
        return self.make_lane(close)

    # -- stopping

    def interrupt_as_asked(self) -> None:
        """End the connections that a stop ends: idle ones at once, all of them in a hurry.

        Called in the wait, and from the one signal handler that may touch a connection.
        """
        if not self.stop.is_set:
            return
        for lane in tuple(self.lanes):
            connection = lane.current
            if connection is None:
                continue
            if self.stop.is_hurried:
                connection.interrupt()
            else:
                connection.end_if_idle()

    def interrupt_overdue(self, now: float) -> None:
        """End the connections that have lasted too long; a parent that watches asks for it."""
        if not self.connection_timeout:
            return
        for lane in tuple(self.lanes):
            seconds, word, connection = self.slot.seconds, lane.record >> 3, lane.current
            began = seconds[word + BEGAN]
            due = max(began + self.connection_timeout, seconds[word + EXTENDED])
            if connection is not None and began > 0 and due <= now:
                seconds[word + INTERRUPTED] = now
                connection.interrupt()

    def extend_timeout(self, request: object, seconds: float) -> None:
        """Let a request that is being served last so many seconds more from now."""
        for lane in tuple(self.lanes):
            if lane.current is request:
                self.slot.seconds[(lane.record >> 3) + EXTENDED] = monotonic() + seconds


def _say_nothing() -> None:
    pass
