"""Stand-ins for what the tests of one module need of the others."""

import os
import socket
from collections.abc import Callable
from typing import Any

from forkserve.address import parse_address
from forkserve.binding import open_listeners
from forkserve.connection import Connection
from forkserve.listener import Listener
from forkserve.run_handler import Inline
from forkserve.scoreboard import Scoreboard, Slot

Result = Connection | None | BaseException | Callable[[], None]


def open_streams(*texts: object) -> list[Listener]:
    """Open listeners of connections."""
    opened = open_listeners([parse_address(str(text)) for text in texts])
    return [one for one in opened if isinstance(one, Listener)]


class FakeServer:
    """What a handler sees as ``self.server``."""

    def __init__(self) -> None:
        self.stopping = False

    def extend_timeout(self, request: object, seconds: float) -> None:
        """Have no timeout to extend."""

    def be_told_to_extend(self, how: Callable[[object, float], None]) -> None:
        """Extend nothing all the same."""


class FakeListener(Listener):
    """Answers accept() from a script, and is readable the whole time.

    A result is returned, an exception raised, a function called; when the script has ended,
    ``at_end`` is called each time and the queue is empty.
    """

    def __init__(self, *script: Result, at_end: Callable[[], None] = lambda: None) -> None:
        self.script = list(script)
        self.at_end = at_end
        self.reader, self.writer = socket.socketpair()
        self.socket = self.reader
        self.writer.send(b"readable")
        self.accepts = 0
        self.quiesced = True
        self.is_refusing = False
        self.is_owned = True
        self.is_shut = False

    def __str__(self) -> str:
        return "the fake listener"

    def accept(self) -> Connection | None:
        """Return or raise what the script says."""
        self.accepts += 1
        if not self.script:
            self.at_end()
            return None
        result = self.script.pop(0)
        if isinstance(result, BaseException):
            raise result
        if result is None or isinstance(result, Connection):
            return result
        result()
        return None

    def is_quiesced(self) -> bool:
        """Say what the test wants."""
        return self.quiesced

    def is_ending(self) -> bool:
        """Say what the test wants."""
        return self.quiesced

    def is_listening(self) -> bool:
        """Say what the test wants."""
        return not self.is_shut

    def let_go(self) -> None:
        """Close our end."""
        self.reader.close()

    def refuse(self) -> None:
        """Note it."""
        self.is_refusing = True

    def close(self) -> None:
        """Close both ends."""
        self.reader.close()
        self.writer.close()


class FakeClock:
    """Says what time it is, and goes on only when told."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class FakeDescriptorListener:
    """What a connection asks its listener for."""

    def __init__(self) -> None:
        self.path = ""
        self.server = FakeServer()


def make_connection(accepted: socket.socket, kind: type[Any] = Connection) -> Any:
    """Return a connection on a socket's descriptor, with the slots as Listener.accept fills them.

    The socket gives its descriptor away.
    """
    connection = kind(accepted.family, accepted.type, accepted.proto, accepted.detach())
    connection.address = ""
    connection.listener = FakeDescriptorListener()
    connection.at_end = False
    connection.is_idle = False
    connection._buffers = None
    connection._borrowed = None
    return connection


def take_slot(lanes: int = 8) -> Slot:
    """Return the slot of a lone worker with so many lanes."""
    return Scoreboard(1, lanes).take_slot()


def make_lanes(count: int) -> list[Inline]:
    """Return so many lanes of a worker."""
    slot = take_slot(count)
    return [Inline(number, slot.record(number)) for number in range(count)]


def is_closed(descriptor: int) -> bool:
    """Tell whether nothing is open under this number."""
    try:
        os.fstat(descriptor)
    except OSError:
        return True
    return False
