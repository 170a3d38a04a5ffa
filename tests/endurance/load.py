"""Be many clients at the same time, and tell what became of each connection."""

import enum
import secrets
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType

from tests.support import clients
from tests.support.waiting import Stopwatch, eventually

CLIENTS = 16
BODY_SIZE = 16_384
KEPT_FAILURES = 10


class Outcome(enum.Enum):
    """How a connection went."""

    OK = "ok"
    SHORT = "short"
    WRONG = "wrong bytes"
    REFUSED = "refused"
    RESET_IN_CONNECT = "reset while connecting"
    RESET_AFTER = "reset after"
    TIMED_OUT = "timed out"
    WRITE_ERROR = "write error"


@dataclass(frozen=True, slots=True)
class Failure:
    """A connection that did not go well: when, in seconds since the load began, and why."""

    moment: float
    outcome: Outcome
    text: str

    def __str__(self) -> str:
        return f"after {self.moment:.3f} s {self.outcome.value}: {self.text}"


class Load:
    """So many clients that make one connection after another, each in a thread, for a block.

    Each sends 16 kB that nobody else sends, half-closes, and wants the same bytes back: a reset
    cannot hide, and an answer cannot be another one's. The handler must echo.
    """

    def __init__(self, address: str, clients: int = CLIENTS, timeout: float = 30.0) -> None:
        """Tell whom to meet; `timeout` is the longest that one step of a connection may take."""
        self._address = address
        self._timeout = timeout
        self._enough = threading.Event()
        self._watch = Stopwatch()
        self._failures: list[Failure] = []
        # One counter for each thread, every key there from the start: nobody needs a lock.
        self._counters = [Counter(dict.fromkeys(Outcome, 0)) for _ in range(clients)]
        self._threads = [threading.Thread(target=self._work, args=(c,)) for c in self._counters]

    def __enter__(self) -> "Load":
        self._watch = Stopwatch()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Let every client finish its connection, and make no more."""
        self._enough.set()
        for thread in self._threads:
            thread.join()

    def counts(self) -> Counter[Outcome]:
        """Return how many connections went which way so far, every way named."""
        total = Counter(dict.fromkeys(Outcome, 0))
        for counter in self._counters:
            total.update(counter)
        return total

    def connections(self) -> int:
        """Return how many connections have ended so far, well or not."""
        return self.counts().total()

    def failed(self) -> int:
        """Return how many connections have not gone well so far."""
        return self.connections() - self.counts()[Outcome.OK]

    def first_failures(self) -> list[Failure]:
        """Return the first few connections that did not go well."""
        return self._failures[:KEPT_FAILURES]

    def describe_failures(self) -> str:
        """Return in words what went wrong: each class with its number, then the first few."""
        counts = self.counts()
        bad = [f"{counts[one]} {one.value}" for one in Outcome if one is not Outcome.OK]
        named = ", ".join(words for words in bad if not words.startswith("0 "))
        return "; ".join([named or "nothing", *map(str, self.first_failures())])

    def wait_for(self, connections: int, timeout: float = 300.0) -> None:
        """Wait until so many connections in all have ended."""
        eventually(lambda: self.connections() >= connections, timeout)

    def wait_for_more(self, connections: int, timeout: float = 60.0) -> None:
        """Wait until so many connections more have ended."""
        self.wait_for(self.connections() + connections, timeout)

    def _work(self, counter: Counter[Outcome]) -> None:
        while not self._enough.is_set():
            body = secrets.token_hex(8).encode() * (BODY_SIZE // 16)
            try:
                outcome, text = _compare(body, self._ask(body))
            except _LostError as lost:
                outcome, text = lost.outcome, str(lost)
            counter[outcome] += 1
            if outcome is not Outcome.OK and len(self._failures) < KEPT_FAILURES:
                self._failures.append(Failure(self._watch.seconds, outcome, text))

    def _ask(self, body: bytes) -> bytes:
        with _lost_as(Outcome.REFUSED, "connect"):
            client = clients.connect(self._address, self._timeout)
        with client:
            with _lost_as(Outcome.WRITE_ERROR, "write"):
                client.sendall(body)
                client.shutdown(socket.SHUT_WR)
            with _lost_as(Outcome.RESET_AFTER, "read"):
                return clients.read_to_end(client)


class _LostError(Exception):
    """A connection that ended early."""

    def __init__(self, outcome: Outcome, text: str) -> None:
        super().__init__(text)
        self.outcome = outcome


@contextmanager
def _lost_as(outcome: Outcome, step: str) -> Iterator[None]:
    """Say in which way the connection is lost if this step fails."""
    try:
        yield
    except OSError as error:
        text = f"{step}: {error!r}"
        if isinstance(error, TimeoutError):
            outcome = Outcome.TIMED_OUT
        elif outcome is Outcome.REFUSED and isinstance(error, ConnectionResetError):
            outcome = Outcome.RESET_IN_CONNECT
        raise _LostError(outcome, text) from None


def _compare(body: bytes, answer: bytes) -> tuple[Outcome, str]:
    """Judge an answer that came to its end in order."""
    if answer == body:
        return Outcome.OK, ""
    if body.startswith(answer):
        return Outcome.SHORT, f"{len(answer)} of {len(body)} bytes"
    return Outcome.WRONG, f"{len(answer)} bytes, which begin with {answer[:32]!r}"
