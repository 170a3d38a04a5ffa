"""See that the last bytes reach the peer: end our side first, and close when it has ended its.

Closing while input is unread, or still under way, makes the kernel reset the connection, and the
peer loses what it has not read yet (RFC 9112, 9.6; RFC 1122, 4.2.2.13).
"""

import contextlib
from _socket import MSG_DONTWAIT, SHUT_WR
from _socket import socket as Descriptor
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING

from forkserve.connection import Connection, close_quietly
from forkserve.wait import ONCE, Wait

if TYPE_CHECKING:
    from typing import TypeGuard

    from forkserve.datagram import Request

LINGER_TIMEOUT = 2.0
LINGER_BYTES = 256 * 1024

# A peer is first looked for after so many more connections or seconds: by then it has mostly
# closed, and needs neither a registration nor a wake-up of its own.
FRESH = 16
SOON = 0.02

_recv = Descriptor.recv


class Lingering:
    """The connections that one wait's process has ended and their peers have not.

    Owns them. Several threads may share it: each step is one dictionary, deque or epoll operation.
    """

    def __init__(self, wait: Wait, on_change: Callable[[], None]) -> None:
        self._wait = wait
        self._on_change = on_change  # called when there may be more or fewer that are watched
        self._fresh: deque[Connection] = deque()
        self._watched: dict[int, _Peer] = {}
        self._deadlines: deque[_Peer] = deque()

    def __bool__(self) -> bool:
        return bool(self._fresh or self._watched)

    def count_watched(self) -> int:
        """Return how many take their time."""
        return len(self._watched)

    def add(self, connection: "Request") -> None:
        """Own a connection from here on, end our side of it, and close it in its time."""
        if _end_our_side(connection):
            self._fresh.append(connection)
            if len(self._fresh) > FRESH:
                self._settle(self._fresh.popleft())

    def settle_all(self) -> None:
        """Look at those that nobody has looked at yet."""
        with contextlib.suppress(IndexError):  # another thread may have taken the last one
            while self._fresh:
                self._settle(self._fresh.popleft())

    def hear(self, descriptor: int) -> None:
        """Look at the one with this descriptor, if there is one: its peer has done something."""
        peer = self._watched.pop(descriptor, None)
        if peer is not None and not peer.is_over():
            self._watched[descriptor] = peer
            self._wait.modify(descriptor, ONCE)
        self._on_change()

    def has_deadlines(self) -> bool:
        """Whether patience() depends on any that are, or were, watched."""
        return bool(self._deadlines)

    def expire(self, now: float) -> None:
        """Close those whose peers have had their time, and forget the time of those closed."""
        with contextlib.suppress(IndexError):  # none is left
            while (peer := self._deadlines.popleft()).deadline <= now or peer.is_closed():
                if self._watched.pop(peer.connection.fileno(), None) is not None:
                    close_quietly(peer.connection)
            self._deadlines.appendleft(peer)  # taken before it was looked at: others take too
        self._on_change()

    def patience(self, now: float) -> float | None:
        """Return the seconds until some should be looked at; None if nothing is due."""
        if self._fresh:
            return SOON
        return max(0.0, self._deadlines[0].deadline - now) if self._deadlines else None

    def _settle(self, connection: Connection) -> None:
        """Close the connection if its peer has closed by now, as most have; else watch it."""
        peer = _Peer(connection)
        if not peer.is_over():
            peer.deadline = monotonic() + LINGER_TIMEOUT
            descriptor = connection.fileno()
            try:
                self._wait.register(descriptor, ONCE)
            except OSError:  # epoll_ctl(2): no room to watch it
                close_quietly(connection)
                return
            self._watched[descriptor] = peer
            self._deadlines.append(peer)
            self._on_change()


def linger_here(connection: "Request") -> None:
    """Do the same for one connection, in a process that has nothing else to do: blocks."""
    if _end_our_side(connection):
        with contextlib.suppress(OSError):  # reset, or still open after all that time
            _read_to_end(connection)
        close_quietly(connection)


def _end_our_side(connection: "Request") -> "TypeGuard[Connection]":
    """Shut the connection for writing, and say whether its peer has yet to end its side.

    A datagram looks like one whose peer has.
    """
    try:
        connection.shutdown(SHUT_WR)  # also ends it for the peer if another process holds it
    except OSError:
        close_quietly(connection)
        return False
    if connection.at_end:
        close_quietly(connection)
        return False
    return True


def _read_to_end(connection: Connection) -> None:
    deadline = monotonic() + LINGER_TIMEOUT
    room = LINGER_BYTES
    connection.settimeout(LINGER_TIMEOUT)
    while size := len(connection.recv(16384)):
        room -= size
        if room <= 0 or monotonic() >= deadline:
            return


class _Peer:
    """Who has yet to close, how long it may take, and how much it may still send."""

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
