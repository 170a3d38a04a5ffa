"""The two sides of each workload: the handler that serves it, and what its clients say.

Clients are here and not with the measuring, since the processes that make load import them by name.
"""

import os
import resource
import select
import signal
from array import array
from typing import NamedTuple

import forkserve
from forkserve.bench.conversation import (
    Pause,
    Read,
    ReadExactly,
    ReadToEnd,
    Send,
    Talk,
    WrongAnswer,
)

QUESTION = b"question".ljust(64)
SLOWLY = b"all of it".ljust(64)
CRASH = b"crash".ljust(64)
ANSWER = b"answer".ljust(64)

COMPUTING = 60_000  # turns of a loop, 4 ms or so
WAITING = 0.010
MIXED_COMPUTING = 30_000
MIXED_WAITING = 0.008
CRASH_EVERY = 100
LARGE = array("I", range(250_000)).tobytes()  # no two pages of it are alike
TIMES = 8  # so often is more than the kernel's buffers take: the handler waits for its reader
PIECE = 250_000
PAUSE = 0.01


def compute(turns: int) -> bytes:
    """Do some arithmetic and return what came out, as an answer."""
    value = 1
    for _ in range(turns):
        value = (value * 1103515245 + 12345) & 0x7FFFFFFF
    return str(value).encode().ljust(64)


def wait(seconds: float) -> None:
    """Do nothing for a time, as one who waits for a database."""
    select.select([], [], [], seconds)


class Compute(forkserve.StreamHandler):
    """Answer after some milliseconds of pure Python."""

    def handle(self) -> None:
        self.connection.recv_exactly(len(QUESTION))
        self.connection.sendall(compute(COMPUTING))


class Wait(forkserve.StreamHandler):
    """Answer after a wait."""

    def handle(self) -> None:
        self.connection.recv_exactly(len(QUESTION))
        wait(WAITING)
        self.connection.sendall(ANSWER)


class Mix(forkserve.StreamHandler):
    """Answer after a wait and some pure Python."""

    def handle(self) -> None:
        self.connection.recv_exactly(len(QUESTION))
        wait(MIXED_WAITING)
        self.connection.sendall(compute(MIXED_COMPUTING))


class Large(forkserve.StreamHandler):
    """Send a large answer."""

    def handle(self) -> None:
        self.connection.recv_exactly(len(QUESTION))
        self.connection.sendall(LARGE)


class ForReaders(forkserve.StreamHandler):
    """Send a very large answer to those who ask for it, and a small one to others."""

    def handle(self) -> None:
        if self.connection.recv_exactly(len(QUESTION)) == QUESTION:
            self.connection.sendall(ANSWER)
        else:
            for _ in range(TIMES):
                self.connection.sendall(LARGE)


class Echo(forkserve.StreamHandler):
    """Send back whatever arrives, and wait for more."""

    def handle(self) -> None:
        while data := self.connection.recv():
            self.connection.sendall(data)


class Crash(forkserve.StreamHandler):
    """Answer after a wait, or end the process as a fault in a C extension would."""

    def handle(self) -> None:
        if self.connection.recv_exactly(len(QUESTION)) == CRASH:
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            os.kill(os.getpid(), signal.SIGSEGV)
        wait(WAITING)
        self.connection.sendall(ANSWER)


class LargeAnswer(NamedTuple):
    """A client that checks a large answer piece by piece, and may rest between two."""

    question: bytes
    times: int = 1
    piece: int = 0  # bytes, of which a whole number make an answer; 0: whatever there is
    rest: float = 0.0

    def __call__(self, number: int, /) -> Talk:
        """Return one exchange."""
        yield Send(self.question)
        for _ in range(self.times):
            at = 0
            while at < len(LARGE):
                data = yield ReadExactly(self.piece) if self.piece else Read()
                if not LARGE.startswith(data, at):
                    raise WrongAnswer(f"the answer is not as it should be from byte {at} on")
                at += len(data)
                if self.rest:
                    yield Pause(self.rest)
        if (yield ReadToEnd()):
            raise WrongAnswer("the answer goes on after its end")


class CrashingClients(NamedTuple):
    """Clients of whom one in a hundred crashes the process that serves it."""

    def __call__(self, number: int, /) -> Talk:
        """Return one exchange; for the one who crashes, it is cut short."""
        is_fatal = number % CRASH_EVERY == CRASH_EVERY // 4
        yield Send(CRASH if is_fatal else QUESTION)
        answer = yield ReadExactly(len(ANSWER))
        if is_fatal or answer != ANSWER:
            raise WrongAnswer("a client that crashed its server has an answer" if is_fatal else "")
