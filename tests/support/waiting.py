"""Wait for what announces itself by no event, and for nothing else."""

import threading
import time
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")

_NEVER = threading.Event()


def pause(seconds: float) -> None:
    """Let time pass, in a test whose subject is the passing of time."""
    _NEVER.wait(seconds)


def becomes(wanted: object, look: Callable[[], object], timeout: float = 20.0) -> None:
    """Fail unless what one sees becomes what is wanted in time."""
    deadline = time.monotonic() + timeout
    while (seen := look()) != wanted:
        if time.monotonic() > deadline:
            raise AssertionError(f"still {seen}, not {wanted}, after {timeout} s")
        pause(0.005)


def eventually(statement: Callable[[], object], timeout: float = 20.0) -> None:
    """Fail unless the statement becomes true in time.

    For what the kernel shows in /proc only; whatever has an event (a line, a descriptor, the end of
    a process) is waited for by that event.
    """
    becomes(True, lambda: bool(statement()), timeout)


def settled(look: Callable[[], Result], timeout: float = 20.0) -> Result:
    """Return what one sees once it has been the same for a tenth of a second."""
    watch = Stopwatch()
    seen, since = look(), Stopwatch()
    while since.seconds < 0.1:
        assert watch.seconds < timeout, f"still changing after {timeout} s: {seen}"
        pause(0.005)
        if (now := look()) != seen:
            seen, since = now, Stopwatch()
    return seen


class Stopwatch:
    """How long it took, in seconds."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """Return the seconds since this was made."""
        return time.monotonic() - self._began
