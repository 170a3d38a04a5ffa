"""Where an accept loop waits: for connections, and for peers that have yet to close."""

import contextlib
import errno
from _socket import MSG_DONTWAIT, SHUT_WR
from _socket import socket as Descriptor
from collections import deque
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Protocol

from forkserve.connection import Connection, close_quietly
from forkserve.listener import Listener
from forkserve.log import log
from forkserve.stop import Stop
from forkserve.wait import EXCLUSIVE, ONCE, Wait

LINGER_TIMEOUT = 2.0
LINGER_BYTES = 256 * 1024
PAUSE = 0.1
GRACE = 0.02  # a handshake that began before the door was closed ends within this
QUIET = 5.0  # between two lines about the same trouble

# A peer is first looked for after so many more connections or seconds: by then it has mostly
# closed, and needs neither a registration nor a wake-up of its own.
FRESH = 16
SOON = 0.02

_recv = Descriptor.recv


class Attendance(Protocol):
    """Told when somebody begins and ends to wait at the door."""

    def arrive(self) -> float | None:
        """Say that one more waits, and return how many seconds it may: 0 sends it away."""
        ...

    def leave(self) -> None:
        """Say that it does not wait any more."""
        ...


class Door:
    """The listeners of one process, watched while there is room.

    Several threads may wait here, each running accept_loop. Nothing here is a lock: what they
    share are single dictionary, deque and epoll operations.
    """

    def __init__(
        self,
        listeners: Sequence[Listener],
        stop: Stop,
        limit: int,
        wait: Wait,
        *,
        on_stop: Callable[[], None],
        is_shared: bool = False,
        attendance: Attendance | None = None,
    ) -> None:
        self.is_full = False
        self._is_held = False
        self.is_closing = False
        self.taken = 0
        self._stop = stop
        self._limit = limit
        self._wait = wait
        self._on_stop = on_stop
        self._is_shared = is_shared
        self._attendance = attendance
        self._listeners = {listener.fileno(): listener for listener in listeners}
        self._is_watching = False
        self._paused_until = 0.0
        self._closing_at: float | None = None
        self._found_at = -1
        self._trouble_said_at: float | None = None
        self._trouble_unsaid = 0
        self._fresh: deque[Connection] = deque()
        self._lingering: dict[int, _Lingering] = {}
        self._deadlines: deque[_Lingering] = deque()
        # With one listener a burst is served before anything else is looked at; with several, one
        # connection each, so that a flood on one cannot starve another.
        self.burst = 64 if len(listeners) == 1 else 1

    # -- waiting

    def wait(self) -> list[Listener]:
        """Block until some listeners may have a connection; none of them: the door is closed."""
        while True:
            now = monotonic()
            if self._stop.is_set and self._is_over(now):
                return []
            self._watch(now)
            found = self._attend(now) if self._attendance else self._poll(self._timeout(now))
            if found is None:
                return []
            ready = self._sort(found)
            if ready and not self.is_full:
                self._found_at = self.taken
                return ready
            if self.is_closing and (self._is_watching or not self._listeners):
                self._refuse()
                return []

    def _attend(self, now: float) -> list[int] | None:
        """Wait under the eyes of those who count; None if that was long enough."""
        assert self._attendance is not None
        patience = self._attendance.arrive()
        if patience == 0:
            return None
        timeout = self._timeout(now)
        if patience is not None:
            timeout = patience if timeout is None else min(timeout, patience)
        found = self._poll(timeout)
        self._attendance.leave()
        if not found and patience is not None and monotonic() >= now + patience:
            return None
        return found

    def _is_over(self, now: float) -> bool:
        if self._closing_at is None:
            self._closing_at = now + GRACE
            self._on_stop()
        if self._stop.is_hurried or self._stop.is_retired or not self._are_quiesced():
            return True  # the queue is for others, or for nobody
        self.is_closing = self.is_closing or now >= self._closing_at
        if self._found_at != self.taken:
            return False
        # A Unix listener that was shut down looks ready for ever: an empty one is looked at once
        # more, when the door closes.
        self._found_at = -1
        self._paused_until = self._closing_at
        if self.is_closing:
            self._refuse()
        return self.is_closing

    def _are_quiesced(self) -> bool:
        return all(listener.is_quiesced() for listener in self._listeners.values())

    def _refuse(self) -> None:
        """Let those who come now know that nobody is here, if that is so in every process."""
        for listener in tuple(self._listeners.values()):
            if listener.is_quiesced():
                listener.refuse()

    def _watch(self, now: float) -> None:
        wanted = not self.is_full and now >= self._paused_until
        if wanted == self._is_watching:
            return
        self._is_watching = wanted
        for descriptor in self._listeners:
            with contextlib.suppress(FileExistsError, FileNotFoundError):
                if wanted:
                    self._wait.register(descriptor, EXCLUSIVE)
                else:
                    self._wait.unregister(descriptor)

    def _poll(self, timeout: float | None) -> list[int]:
        if not self._fresh:
            return self._wait.poll(timeout)
        found = self._wait.poll(SOON if timeout is None else min(SOON, timeout))
        if not found:
            self._settle_all()
        return found

    def _timeout(self, now: float) -> float | None:
        due = []
        if self._paused_until > now:
            due.append(self._paused_until)
        if self._deadlines:
            due.append(self._deadlines[0].deadline)
        if self._closing_at is not None:
            if not self.is_closing:
                due.append(self._closing_at)
            elif self._is_watching:
                return 0.0
        return max(0.0, min(due) - now) if due else None

    def _sort(self, found: list[int]) -> list[Listener]:
        ready = []
        for descriptor in found:
            listener = self._listeners.get(descriptor)
            if listener is not None:
                ready.append(listener)
                if self._is_shared:
                    self._go_to_the_end_of_the_line(descriptor)
            else:
                self._hear(descriptor)
        if self._deadlines:
            self._expire(monotonic())
        return ready

    def _go_to_the_end_of_the_line(self, descriptor: int) -> None:
        # EPOLLEXCLUSIVE always wakes the first in line: who was woken goes to its end, and the
        # connections are shared evenly by the processes that wait.
        with contextlib.suppress(FileExistsError, FileNotFoundError):
            self._wait.unregister(descriptor)
            self._wait.register(descriptor, EXCLUSIVE)

    def is_stopping(self) -> bool:
        """Whether this process was asked to leave."""
        return self._stop.is_set

    # -- trouble

    def pause(self, reason: BaseException) -> None:
        """Stop watching for a moment: the machine is at a limit, and the clients can wait."""
        now = monotonic()
        self._paused_until = now + PAUSE
        self._trouble_unsaid += 1
        if self._trouble_said_at is None or now >= self._trouble_said_at + QUIET:
            name = errno.errorcode.get(getattr(reason, "errno", None) or 0, type(reason).__name__)
            log.warning(
                "cannot take connections: %s (%s), %d times; trying again every %d ms",
                reason,
                name,
                self._trouble_unsaid,
                PAUSE * 1000,
            )
            self._trouble_said_at = now
            self._trouble_unsaid = 0

    # -- the last byte arrives

    def linger(self, connection: Connection) -> None:
        """Own a connection from here on: end our side, and close when the peer has ended its.

        Closing while input is unread, or still under way, makes the kernel reset the connection,
        and the peer loses what it has not read yet (RFC 9112, 9.6; RFC 1122, 4.2.2.13).
        """
        try:
            connection.shutdown(SHUT_WR)  # also ends it for the peer if another process holds it
        except OSError:
            close_quietly(connection)
            return
        if connection.at_end:
            close_quietly(connection)
            return
        self._fresh.append(connection)
        if len(self._fresh) > FRESH:
            self._settle(self._fresh.popleft())

    def has_lingering(self) -> bool:
        """Whether some peer has yet to close."""
        return bool(self._fresh or self._lingering)

    def _settle_all(self) -> None:
        with contextlib.suppress(IndexError):  # another thread may have taken the last one
            while self._fresh:
                self._settle(self._fresh.popleft())

    def _settle(self, connection: Connection) -> None:
        """Close the connection if its peer has closed by now, as most have; else watch it."""
        entry = _Lingering(connection)
        if not entry.is_over():
            entry.deadline = monotonic() + LINGER_TIMEOUT
            self._keep(entry)

    def _keep(self, entry: "_Lingering") -> None:
        descriptor = entry.connection.fileno()
        self._lingering[descriptor] = entry
        self._deadlines.append(entry)
        self._wait.register(descriptor, ONCE)
        self._count()

    def _count(self) -> None:
        self.is_full = self._is_held or len(self._lingering) >= self._limit

    def hold(self, is_held: bool) -> None:
        """Keep the door shut, or not, for a reason that only the caller knows."""
        self._is_held = is_held
        self._count()

    def _hear(self, descriptor: int) -> None:
        entry = self._lingering.pop(descriptor, None)
        if entry is None:
            return
        if not entry.is_over():
            self._lingering[descriptor] = entry
            self._wait.modify(descriptor, ONCE)
        self._count()

    def _expire(self, now: float) -> None:
        with contextlib.suppress(IndexError):
            while (entry := self._deadlines[0]).deadline <= now or entry.is_closed():
                self._deadlines.popleft()
                if self._lingering.pop(entry.connection.fileno(), None) is not None:
                    close_quietly(entry.connection)
        self._count()

    # -- the end

    def drop(self, listener: Listener) -> None:
        """Watch a listener no more that was emptied and shut down."""
        descriptor = listener.fileno()
        if self._listeners.pop(descriptor, None) is not None and self._is_watching:
            with contextlib.suppress(FileNotFoundError):  # another thread may just renew it
                self._wait.unregister(descriptor)

    def close(self) -> None:
        """Close this process's copies of the listeners; what lingers goes on."""
        while self._listeners:
            with contextlib.suppress(KeyError):  # two threads may close at once
                descriptor, listener = self._listeners.popitem()
                if self._is_watching:  # closing does not, while another process has it open
                    with contextlib.suppress(FileNotFoundError):
                        self._wait.unregister(descriptor)
                listener.socket.close()
        self._is_watching = False

    def see_off(self, *, block: bool) -> None:
        """Wait once for the peers that have yet to close, or only look at them."""
        self._settle_all()
        if self._lingering:
            self._sort(self._wait.poll(self.patience() if block else 0))

    def patience(self) -> float | None:
        """Return the seconds until some peer has had its time; None if nothing is due."""
        if self._fresh:
            return SOON
        return max(0.0, self._deadlines[0].deadline - monotonic()) if self._deadlines else None


class _Lingering:
    """A connection that we have ended and its peer has not."""

    __slots__ = ("connection", "deadline", "room")

    deadline: float

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.room = LINGER_BYTES

    def is_over(self) -> bool:
        """Read what has come; close and say so if that was the end of it, or too much."""
        connection = self.connection
        if connection.gettimeout():
            connection.settimeout(0.0)  # or recv would wait that long, MSG_DONTWAIT or not
        try:
            while data := _recv(connection, 16384, MSG_DONTWAIT):
                self.room -= len(data)
                if self.room <= 0:
                    break
        except BlockingIOError:
            return False
        except OSError:
            pass  # reset by the peer: it is not interested
        close_quietly(connection)
        return True

    def is_closed(self) -> bool:
        """Whether the connection was closed meanwhile."""
        return self.connection.fileno() < 0
