"""Wait for what announces itself by no event, and for nothing else."""

import threading
import time
from collections.abc import Callable

_NEVER = threading.Event()


def pause(seconds: float) -> None:
    """Let time pass, in a test whose subject is the passing of time."""
    _NEVER.wait(seconds)


def eventually(statement: Callable[[], object], timeout: float = 5.0) -> None:
    """Fail unless the statement becomes true in time.

    For what the kernel shows in /proc only; whatever has an event (a line, a descriptor, the end of
    a process) is waited for by that event.
    """
    deadline = time.monotonic() + timeout
    while not statement():
        if time.monotonic() > deadline:
            raise AssertionError(f"not true within {timeout} s")
        pause(0.005)


class Stopwatch:
    """How long it took, in seconds."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """Return the seconds since this was made."""
        return time.monotonic() - self._began
