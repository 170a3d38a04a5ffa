"""What a strategy needs to serve in one process."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from forkserve.acceptor import Dispatcher
from forkserve.binding import AnyListener
from forkserve.door import Attendance, Door
from forkserve.handler import Serve
from forkserve.run_handler import Inline, make_run_datagram, make_run_handler
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
        access_log: bool = False,
        make_dispatcher: "MakeDispatcher | None" = None,
    ) -> None:
        self.listeners = listeners
        self.stop = stop
        self.limit = limit
        self.is_shared = is_shared  # whether other processes wait on the same listeners
        self.child_died = False
        self.lanes: list[Inline] = []
        self.wait: Wait
        self.wakeup: Wakeup
        self.lifeline: int | None = None
        self.attend: Callable[[], None] = self.interrupt_as_asked
        self._serve = serve
        self._access_log = access_log
        self._make_dispatcher = make_dispatcher

    def open(self, lifeline: int | None = None) -> None:
        """Make this process's own wait; a lifeline is a pipe that ends when the parent does."""
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
        )

    def make_run_handler(self, close: Serve, lane: Inline | None = None) -> Serve:
        """Return the function that serves a request, shown by a lane, and gives it to close."""
        lane = lane or Inline()
        if all(listener.is_datagram for listener in self.listeners) and not self._access_log:
            return make_run_datagram(self._serve, self.stop, lane)
        return make_run_handler(self._serve, close, self.stop, lane, access_log=self._access_log)

    def make_lane(self, close: Serve) -> Inline:
        """Return a dispatcher that serves here, known to interrupt_as_asked() until it leaves."""
        lane = Inline()
        lane.dispatch = self.make_run_handler(close, lane)
        self.lanes.append(lane)
        return lane

    def make_dispatcher(self, close: Serve) -> Dispatcher:
        """Return the user's own dispatcher, or one that serves here."""
        if self._make_dispatcher is not None:
            return self._make_dispatcher(self.make_run_handler(close))
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
