"""What a parent waits for: signals, the ends of its children, and pipes."""

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import monotonic
from types import FrameType

from forkserve import signals
from forkserve.wait import Wait
from forkserve.wakeup import Wakeup


class Inbox:
    """The one wait of a supervisor or a leader, and what has come in meanwhile."""

    def __init__(self) -> None:
        self.wait = Wait()
        self._wakeup = Wakeup()
        self._asked: list[int] = []
        self._has_child_changed = False
        self.wait.watch(self._wakeup.reader, self._wakeup.drain)

    @contextmanager
    def opened(self, mask: signals.Mask, numbers: Sequence[int]) -> Iterator[None]:
        """Take these signals, which were held back, for the time of a block, in the main thread."""
        handlers: dict[int, signals.Handler] = dict.fromkeys(numbers, self._on_request)
        handlers[signal.SIGCHLD] = self._on_child
        handlers[signals.INTERRUPT] = _only_wake  # a worker rings
        handlers[signal.SIGALRM] = _only_wake  # a timer of the user's module must not kill us
        try:
            with signals.handled(handlers, self._wakeup.writer):
                signals.restore(mask)
                yield
        finally:
            signals.block()

    def _on_request(self, number: int, frame: FrameType | None) -> None:
        self._asked.append(number)

    def _on_child(self, number: int, frame: FrameType | None) -> None:
        self._has_child_changed = True

    def requests(self) -> Iterator[signal.Signals]:
        """Yield the signals that came, in their order."""
        while self._asked:
            yield signal.Signals(self._asked.pop(0))

    def take_child_change(self) -> bool:
        """Whether a child has ended or stopped since the last call."""
        has_changed, self._has_child_changed = self._has_child_changed, False
        return has_changed

    def note_child_change(self) -> None:
        """Have the children looked at again."""
        self._has_child_changed = True

    def wait_until(self, moment: float | None) -> None:
        """Block until something comes in, or the moment has; read the pipes that are watched."""
        if not self._asked and not self._has_child_changed:
            self.wait.poll(None if moment is None else max(0.0, moment - monotonic()))

    def close(self) -> None:
        """Give its descriptors back; also in a child, which must not share them."""
        self._wakeup.close()
        self.wait.close()


def _only_wake(number: int, frame: FrameType | None) -> None:
    pass


def open_pipe() -> tuple[int, int]:
    """Return the ends of a pipe that neither blocks nor is passed to other programs."""
    return os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
