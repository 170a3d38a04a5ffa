"""Collect what a process writes, and wait for words in it."""

import os
import re
import select
import threading
import time
from typing import IO


class Output:
    """What a process wrote to one pipe so far.

    A thread reads the pipe, so that the process never waits for the test; `close` ends the thread
    even where a stray process holds the other end.
    """

    def __init__(self, pipe: IO[bytes]) -> None:
        self._pipe = pipe
        self._bytes = bytearray()
        self._changed = threading.Condition()
        self._ended = False
        self._end, self._ender = os.pipe()
        self._thread = threading.Thread(target=self._collect, daemon=True)
        self._thread.start()

    def text(self) -> str:
        """Return everything so far."""
        with self._changed:
            return self._bytes.decode(errors="replace")

    def wait_for(
        self, pattern: str, timeout: float = 10.0, *, count: int = 1
    ) -> list[re.Match[str]]:
        """Wait until the pattern has matched `count` times; its `^` and `$` mean lines."""
        expression = re.compile(pattern, re.MULTILINE)
        deadline = time.monotonic() + timeout
        with self._changed:
            while True:
                text = self._bytes.decode(errors="replace")
                found = list(expression.finditer(text))
                if len(found) >= count:
                    return found
                left = deadline - time.monotonic()
                if self._ended or left <= 0:
                    why = "the output ended" if self._ended else f"{timeout} s passed"
                    raise AssertionError(f"{why} without {count} x {pattern!r} in:\n{text}")
                self._changed.wait(left)

    def close(self) -> None:
        """Take in what is still in the pipe and end the thread."""
        os.close(self._ender)
        self._thread.join()
        os.close(self._end)
        self._pipe.close()

    def _collect(self) -> None:
        poll = select.poll()
        poll.register(self._pipe, select.POLLIN)
        poll.register(self._end, select.POLLIN)
        while not self._ended:
            ready = {descriptor for descriptor, _ in poll.poll()}
            more = os.read(self._pipe.fileno(), 65536) if self._pipe.fileno() in ready else b""
            with self._changed:
                self._bytes += more
                self._ended = not more
                self._changed.notify_all()
