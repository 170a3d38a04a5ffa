"""Taking connections from the door, whatever accept(2) says."""

import errno
import os
import socket
from collections.abc import Callable, Iterator
from time import monotonic

import pytest

from forkserve import door as door_module
from forkserve.acceptor import accept_loop
from forkserve.connection import Connection
from forkserve.datagram import Request
from forkserve.door import Door
from forkserve.endpoint import ListenerDied
from forkserve.listener import Listener
from forkserve.stop import Stop
from forkserve.wait import Wait
from tests.unit.conftest import Pair
from tests.unit.fakes import FakeListener, Result, open_streams

SHORTAGES = [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM]
TRANSIENT = [
    errno.ECONNABORTED,
    errno.ENETDOWN,
    errno.EPROTO,
    errno.ENOPROTOOPT,
    errno.EHOSTDOWN,
    errno.ENONET,
    errno.EHOSTUNREACH,
    errno.EOPNOTSUPP,
    errno.ENETUNREACH,
    errno.ETIMEDOUT,
    errno.EPERM,
]


def named(numbers: list[int]) -> list[str]:
    """Return the names of some errors."""
    return [errno.errorcode[number] for number in numbers]


class Loop:
    """accept_loop over fake listeners, retired when their scripts have ended."""

    def __init__(self, *scripts: list[Result], limit: int = 100) -> None:
        self.stop = Stop()
        self.wait = Wait()
        self.listeners = [FakeListener(*s, at_end=self.retire_at_end) for s in scripts]
        self.door = Door(self.listeners, self.stop, limit, self.wait, on_stop=lambda: None)
        self.taken: list[Connection] = []

    def retire_at_end(self) -> None:
        """Stop when nobody has anything left."""
        if not any(listener.script for listener in self.listeners):
            self.stop.retire()

    def dispatch(self, connection: Request) -> None:
        """Remember who came."""
        assert isinstance(connection, Connection)
        self.taken.append(connection)

    def run(self) -> list[Connection]:
        """Run until the scripts have ended and return the connections in order."""
        accept_loop(self.door, self.dispatch)
        return self.taken

    def close(self) -> None:
        """Give everything back."""
        self.wait.close()
        for listener in self.listeners:
            listener.close()


MakeLoop = Callable[..., Loop]


@pytest.fixture
def make_loop(monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeLoop]:
    """Return what makes a loop whose pauses are short."""
    monkeypatch.setattr(door_module, "PAUSE", 0.005)
    made = []

    def make(*scripts: list[Result], limit: int = 100) -> Loop:
        made.append(Loop(*scripts, limit=limit))
        return made[-1]

    yield make
    for loop in made:
        loop.close()


@pytest.fixture
def connections(make_pair: Callable[[], Pair]) -> list[Connection]:
    """Return six connections."""
    return [make_pair()[0] for _ in range(6)]


def test_every_connection_is_handed_on(make_loop: MakeLoop, connections: list[Connection]) -> None:
    """In the order in which they came, each once."""
    loop = make_loop([*connections])
    assert loop.run() == connections
    assert loop.door.taken == 6


def test_listeners_take_turns(make_loop: MakeLoop, connections: list[Connection]) -> None:
    """A flood on one listener does not hold up the other."""
    flood, trickle = connections[:4], connections[4:]
    loop = make_loop([*flood], [*trickle])
    taken = loop.run()
    assert taken[:4] in (
        [flood[0], trickle[0], flood[1], trickle[1]],
        [trickle[0], flood[0], trickle[1], flood[1]],
    )
    assert taken[4:] == flood[2:]


def test_an_empty_queue_is_waited_for(make_loop: MakeLoop, connections: list[Connection]) -> None:
    """Another process may have been faster: then the loop waits again."""
    assert make_loop([None, connections[0], None, connections[1]]).run() == connections[:2]


def test_a_full_door_takes_no_more(make_loop: MakeLoop, connections: list[Connection]) -> None:
    """A dispatcher that has no room ends the burst."""
    loop = make_loop([*connections])
    seen_at_door = []

    def dispatch(connection: Request) -> None:
        assert isinstance(connection, Connection)
        loop.taken.append(connection)
        loop.door.is_full = len(loop.taken) == 2
        if loop.door.is_full:
            seen_at_door.append(list(loop.taken))
            loop.stop.retire()

    accept_loop(loop.door, dispatch)
    assert loop.taken == connections[:2]
    assert loop.listeners[0].accepts == 2


@pytest.mark.parametrize(
    "number", [*SHORTAGES, errno.EUCLEAN], ids=named([*SHORTAGES, errno.EUCLEAN])
)
def test_a_shortage_pauses_and_does_not_end_the_loop(
    number: int,
    make_loop: MakeLoop,
    connections: list[Connection],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Without a descriptor, without memory, with an error nobody knows: pause, say so, go on."""
    shortage = OSError(number, os.strerror(number))
    loop = make_loop([shortage, shortage, connections[0], shortage, connections[1]])
    assert loop.run() == connections[:2]
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 1
    assert f"({errno.errorcode[number]}), 1 times" in told[0]


def test_a_shortage_pauses_before_the_next_try(
    make_loop: MakeLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A listener that stays readable is not asked again and again."""
    monkeypatch.setattr(door_module, "PAUSE", 0.03)
    tried = []

    class Noted(OSError):
        pass

    loop = make_loop([lambda: tried.append(monotonic()), Noted(errno.EMFILE, "full")])
    loop.listeners[0].script *= 2
    loop.run()
    assert tried[1] - tried[0] >= 0.03


def test_a_listener_that_died_ends_the_loop(make_loop: MakeLoop) -> None:
    """Nobody can serve it here: that is told to the parent."""
    loop = make_loop([ListenerDied("gone")])
    loop.listeners[0].quiesced = False
    with pytest.raises(ListenerDied):
        loop.run()


def test_a_listener_that_was_quiesced_is_dropped_by_a_worker_deaf_to_the_stop(
    make_loop: MakeLoop, connections: list[Connection]
) -> None:
    """Its owner has ended it on purpose, so that is no failure."""
    loop = make_loop([ListenerDied("gone")], [connections[0]])
    assert loop.run() == connections[:1]


def test_a_listener_that_died_while_stopping_is_dropped(
    make_loop: MakeLoop, connections: list[Connection]
) -> None:
    """A Unix listener is shut down by a stop: when it is empty the others are drained."""
    loop = make_loop([ListenerDied("gone")], [connections[0], connections[1]])
    loop.stop.request()
    assert loop.run() == connections[:2]
    assert loop.listeners[0].accepts == 1


def test_a_dispatcher_that_raises_ends_the_loop(
    make_loop: MakeLoop, connections: list[Connection]
) -> None:
    """What is no handler's fault is not hidden."""
    loop = make_loop([connections[0]])
    with pytest.raises(ZeroDivisionError):
        accept_loop(loop.door, lambda connection: 1 / 0)  # type: ignore[arg-type]


# -- what Listener.accept makes of accept(2)


@pytest.fixture
def listener() -> Iterator[Listener]:
    """Return a listener on loopback."""
    (listener,) = open_streams("127.0.0.1:0")
    yield listener
    listener.close()


def failing(listener: Listener, *numbers: int) -> list[int]:
    """Let accept(2) fail with these errors first; return what counts the calls."""
    accept = listener._accept
    script = list(numbers)
    calls: list[int] = []

    def fake() -> tuple[int, tuple[object, ...] | str]:
        calls.append(len(calls))
        if script:
            number = script.pop(0)
            raise OSError(number, os.strerror(number))
        return accept()

    listener._accept = fake
    return calls


@pytest.mark.parametrize("number", TRANSIENT, ids=named(TRANSIENT))
def test_an_error_of_one_connection_is_not_the_next_ones(number: int, listener: Listener) -> None:
    """What accept(2) says to treat like EAGAIN is tried again at once (F05)."""
    failing(listener, number)
    with socket.create_connection(listener.socket.getsockname(), 5):
        connection = listener.accept()
        assert connection is not None
        connection.close()


def test_an_error_of_the_last_connection(listener: Listener) -> None:
    """The queue may be empty after the one that failed."""
    failing(listener, errno.ECONNABORTED)
    assert listener.accept() is None


def test_errors_without_end_are_trouble(listener: Listener) -> None:
    """After so many errors in a row the loop must pause."""
    calls = failing(listener, *[errno.ECONNABORTED] * 1000)
    with pytest.raises(ConnectionAbortedError):
        listener.accept()
    assert len(calls) < 100


@pytest.mark.parametrize("number", SHORTAGES, ids=named(SHORTAGES))
def test_a_shortage_is_not_tried_again_at_once(number: int, listener: Listener) -> None:
    """The loop decides what to do about it."""
    calls = failing(listener, number)
    with pytest.raises(OSError, match=os.strerror(number)):
        listener.accept()
    assert len(calls) == 1


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EBADF, errno.ENOTSOCK])
def test_a_dead_listener_is_told(number: int, listener: Listener) -> None:
    """The error names the address and what the kernel said."""
    failing(listener, errno.EPROTO, number)
    with pytest.raises(ListenerDied, match=f"{listener} was shut down.*{os.strerror(number)}"):
        listener.accept()


def test_a_listener_that_was_shut_down_is_dead(listener: Listener) -> None:
    """accept(2) says EINVAL then."""
    listener.socket.shutdown(socket.SHUT_RD)
    with pytest.raises(ListenerDied):
        listener.accept()


def test_an_accepted_connection_blocks(listener: Listener) -> None:
    """The listener does not block, its connections do, and helpers do not inherit them (F11)."""
    with socket.create_connection(listener.socket.getsockname(), 5) as client:
        connection = listener.accept()
        assert connection is not None
        assert os.get_blocking(connection.fileno())
        assert not os.get_inheritable(connection.fileno())
        assert connection.gettimeout() is None
        assert connection.address == client.getsockname()
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        connection.close()
