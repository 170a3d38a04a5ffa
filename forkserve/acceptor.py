"""Take connections from the door and hand each one on."""

from collections.abc import Callable
from typing import Protocol

from forkserve.binding import AnyListener
from forkserve.datagram import Request
from forkserve.door import Door
from forkserve.endpoint import ListenerDied


class Dispatcher(Protocol):
    """Decides what happens to one connection or datagram: serve it here, in a child, elsewhere."""

    def dispatch(self, request: Request) -> None:
        """Take over the request: from here on the dispatcher sees to it that it is closed."""
        ...


def accept_loop(door: Door, dispatch: Callable[[Request], None]) -> None:
    """Hand on every connection or datagram until the door is closed.

    Accepts first and waits only when the queue is empty, so under load nothing is asked of the
    kernel that a request does not need.
    """
    while ready := door.wait():
        for listener in ready:
            if not _take_burst(door, listener, dispatch):
                break


def _take_burst(door: Door, listener: AnyListener, dispatch: Callable[[Request], None]) -> bool:
    """Take what is in the queue, for a while; say whether the others may have their turn."""
    for _ in range(door.burst):
        try:
            request = listener.accept()
        except ListenerDied:
            if not (door.is_stopping() or listener.is_ending()):
                raise
            door.drop(listener)
            return True
        except (OSError, MemoryError) as error:
            door.pause(error)
            return False
        if request is None:
            return True
        door.taken += 1
        dispatch(request)
        if door.is_full or door.is_paused:
            return False
    return True
