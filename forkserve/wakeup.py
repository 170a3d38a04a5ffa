"""A pipe that ends this process's wait when a signal, a thread or a child writes to it."""

import contextlib
import os


class Wakeup:
    """Non-blocking at both ends: a full pipe wakes as well as one byte does."""

    __slots__ = ("reader", "writer")

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def ring(self) -> None:
        """End the wait that watches this pipe, unless the process that waited is gone."""
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            os.write(self.writer, b"\0")

    def drain(self) -> None:
        """Make the pipe quiet again, before looking at what it announced."""
        with contextlib.suppress(BlockingIOError):
            while len(os.read(self.reader, 4096)) == 4096:
                pass

    def close(self) -> None:
        """Give both descriptors back."""
        os.close(self.reader)
        os.close(self.writer)
