"""Take connections from the door and hand each one on."""

from collections.abc import Callable
from typing import Protocol

from forkserve.connection import Connection
from forkserve.door import Door
from forkserve.listener import Listener, ListenerDied


class Dispatcher(Protocol):
    """Decides what happens to one accepted connection: serve it here, in a child, elsewhere."""

    def dispatch(self, connection: Connection) -> None:
        """Take over the connection: from here on the dispatcher sees to it that it is closed."""
        ...


def accept_loop(door: Door, dispatch: Callable[[Connection], None]) -> None:
    """Hand on every connection until the door is closed.

    Accepts first and waits only when the queue is empty, so under load nothing is asked of the
    kernel that a connection does not need.
    """
    while ready := door.wait():
        for _ in range(door.burst):
            if not _accept_round(door, ready, dispatch):
                break


def _accept_round(
    door: Door, ready: list[Listener], dispatch: Callable[[Connection], None]
) -> bool:
    """Take one connection from each listener; say whether to come again before waiting."""
    again = False
    for listener in ready:
        try:
            connection = listener.accept()
        except ListenerDied:
            if not (door.is_stopping() or listener.is_quiesced()):
                raise
            door.drop(listener)
            return False
        except OSError as error:
            door.pause(error)
            return False
        if connection is None:
            continue
        door.taken += 1
        dispatch(connection)
        if door.is_full:
            return False
        again = True
    return again
