"""Where an accept loop waits, what it does in trouble, and how it sees its peers out."""

import errno
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from time import monotonic

import pytest

from forkserve import door as door_module
from forkserve import lingering as lingering_module
from forkserve.connection import Connection
from forkserve.door import FRUITLESS, Door
from forkserve.endpoint import ListenerDied
from forkserve.lingering import FRESH, LINGER_BYTES
from forkserve.listener import Listener
from forkserve.stop import Stop
from forkserve.wait import Wait
from forkserve.wakeup import Wakeup
from tests.unit.conftest import Pair
from tests.unit.fakes import FakeClock, FakeListener, open_streams

MakeDoor = Callable[..., Door]


@pytest.fixture
def stop() -> Stop:
    """Return what a test stops its door with."""
    return Stop()


@pytest.fixture
def wait() -> Iterator[Wait]:
    """Return a wait of the test's own."""
    wait = Wait()
    yield wait
    wait.close()


@pytest.fixture
def wakeup(wait: Wait) -> Iterator[Wakeup]:
    """Return what ends the test's wait."""
    wakeup = Wakeup()
    yield wakeup
    wakeup.close()


@pytest.fixture
def listeners() -> Iterator[list[FakeListener]]:
    """Return three listeners that are always readable."""
    listeners = [FakeListener() for _ in range(3)]
    yield listeners
    for listener in listeners:
        listener.close()


@pytest.fixture
def make_door(stop: Stop, wait: Wait) -> MakeDoor:
    """Return what makes a door to some listeners."""

    def make(*listeners: Listener, limit: int = 100, is_shared: bool = False) -> Door:
        return Door(listeners, stop, limit, wait, on_stop=lambda: None, is_shared=is_shared)

    return make


# -- waiting


def test_a_door_returns_who_is_ready(listeners: list[FakeListener], make_door: MakeDoor) -> None:
    """Every listener with a client is returned, those without are not."""
    first, silent, third = listeners
    silent.reader.recv(99)
    assert set(make_door(*listeners).wait()) == {first, third}


@pytest.mark.parametrize("is_shared", [False, True])
def test_a_door_returns_who_is_ready_each_time(
    is_shared: bool, listeners: list[FakeListener], make_door: MakeDoor
) -> None:
    """A listener stays watched, also where the turn passes to other processes in between."""
    door = make_door(listeners[0], is_shared=is_shared)
    assert [door.wait() for _ in range(3)] == [[listeners[0]]] * 3


def test_one_listener_is_served_in_bursts(
    listeners: list[FakeListener], make_door: MakeDoor
) -> None:
    """Of several listeners none gets a second connection before the others got one."""
    assert make_door(listeners[0]).burst > 1
    assert make_door(*listeners).burst == 1


def test_a_full_door_watches_no_listener(
    listeners: list[FakeListener], make_door: MakeDoor, wait: Wait, wakeup: Wakeup
) -> None:
    """Clients wait in the backlog until somebody has left."""
    door = make_door(listeners[0])
    door.is_full = True
    was_full = []

    def somebody_leaves() -> None:
        was_full.append(door.is_full)
        wakeup.drain()
        door.is_full = False

    wait.watch(wakeup.reader, somebody_leaves)
    wakeup.ring()
    assert door.wait() == [listeners[0]]
    assert was_full == [True]


def test_a_door_that_becomes_full_lets_go(
    listeners: list[FakeListener], make_door: MakeDoor, stop: Stop, wait: Wait, wakeup: Wakeup
) -> None:
    """A listener that was watched is not watched any more at the bound."""
    door = make_door(listeners[0])
    door.wait()
    door.is_full = True
    wait.watch(wakeup.reader, stop.retire)
    wakeup.ring()
    assert door.wait() == []


def test_who_lets_go_does_not_undo_that_another_watches_again(
    listeners: list[FakeListener], make_door: MakeDoor, wait: Wait, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that lets go while another comes to a door with room again leaves nobody deaf."""
    door = make_door(listeners[0])
    door.wait()
    door.is_full = True
    unregister = wait.unregister
    another = threading.Thread(target=door.wait, daemon=True)

    def somebody_leaves_meanwhile(descriptor: int) -> None:
        monkeypatch.setattr(wait, "unregister", unregister)
        door.is_full = False
        another.start()
        another.join(0.1)
        unregister(descriptor)

    monkeypatch.setattr(wait, "unregister", somebody_leaves_meanwhile)
    waiting = threading.Thread(target=door.wait, daemon=True)
    waiting.start()
    waiting.join(5)
    another.join(5)
    assert [waiting.is_alive(), another.is_alive()] == [False, False]


def test_who_goes_to_the_end_of_the_line_does_not_undo_that_another_lets_go(
    listeners: list[FakeListener], make_door: MakeDoor, wait: Wait, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that lets go while another renews its turn is not woken all the same."""
    door = make_door(listeners[0], is_shared=True)
    unregister = wait.unregister

    def another_lets_go_meanwhile(descriptor: int) -> None:
        monkeypatch.setattr(wait, "unregister", unregister)
        unregister(descriptor)
        door.is_full = True
        another = threading.Thread(target=door._watch, args=[monotonic()])
        another.start()
        another.join()

    monkeypatch.setattr(wait, "unregister", another_lets_go_meanwhile)
    assert door.wait() == [listeners[0]]
    assert wait.poll(0) == []


def test_a_held_door_is_full(listeners: list[FakeListener], make_door: MakeDoor) -> None:
    """Whoever holds the door has reasons that the number of lingering peers cannot overrule."""
    door = make_door(listeners[0])
    door.hold(True)
    door._count()
    is_full = [door.is_full]
    door.hold(False)
    is_full.append(door.is_full)
    assert is_full == [True, False]


# -- trouble


def test_a_pause_ends_by_itself(
    listeners: list[FakeListener], make_door: MakeDoor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The listeners are watched again after a moment."""
    monkeypatch.setattr(door_module, "PAUSE", 0.02)
    door = make_door(*listeners[:1])
    door.wait()
    door.pause(OSError(errno.EMFILE, "Too many open files"))
    until = door._paused_until
    assert door.wait() == [listeners[0]]
    assert monotonic() >= until


def test_trouble_is_told_once_in_a_while(
    make_door: MakeDoor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The first time it is told at once, then every 5 s, with the number of times."""
    clock = FakeClock()
    monkeypatch.setattr(door_module, "monotonic", clock)
    door = make_door()
    trouble = OSError(errno.EMFILE, "Too many open files")
    door.pause(trouble)
    clock.now += 4.9
    door.pause(trouble)
    door.pause(trouble)
    clock.now += 0.1
    door.pause(trouble)
    door.pause(trouble)
    told = [record.getMessage() for record in caplog.records]
    assert told == [
        "cannot take connections: [Errno 24] Too many open files (EMFILE), 1 times;"
        " trying again every 100 ms",
        "cannot take connections: [Errno 24] Too many open files (EMFILE), 3 times;"
        " trying again every 100 ms",
    ]


def test_trouble_without_a_number(make_door: MakeDoor, caplog: pytest.LogCaptureFixture) -> None:
    """What is no system error is told by its kind."""
    make_door().pause(RuntimeError("can't start new thread"))
    assert "can't start new thread (RuntimeError), 1 times" in caplog.text


# -- the end


@pytest.mark.parametrize("ask", [Stop.retire, Stop.hurry])
def test_a_retired_or_hurried_door_returns_at_once(
    ask: Callable[[Stop], None], listeners: list[FakeListener], make_door: MakeDoor, stop: Stop
) -> None:
    """Whoever leaves the queue to others does not look at it again."""
    ask(stop)
    assert make_door(*listeners).wait() == []


def test_a_stop_drains_the_queue(
    listeners: list[FakeListener], make_door: MakeDoor, stop: Stop
) -> None:
    """After a stop the door returns who is ready, until none is and the grace is over."""
    stop.request()
    door = make_door(listeners[0])
    assert door.wait() == [listeners[0]]
    door.taken += 1
    assert door.wait() == [listeners[0]]
    listeners[0].reader.recv(99)
    door.taken += 1
    assert door.wait() == []


def test_an_empty_listener_that_looks_ready_does_not_hold_up_a_stop(
    listeners: list[FakeListener], make_door: MakeDoor, stop: Stop
) -> None:
    """A Unix listener that was shut down is readable for ever: it is looked at once more."""
    stop.request()
    door = make_door(listeners[0])
    assert [door.wait() for _ in range(3)] == [[listeners[0]], [listeners[0]], []]


def test_a_handshake_that_began_in_time_is_waited_for(
    listeners: list[FakeListener], make_door: MakeDoor, stop: Stop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stop with nobody in the queue lasts the grace, and no longer."""
    monkeypatch.setattr(door_module, "GRACE", 0.03)
    listeners[0].reader.recv(99)
    stop.request()
    before = monotonic()
    assert make_door(listeners[0]).wait() == []
    assert 0.03 <= monotonic() - before < 0.5


def test_a_door_without_listeners_closes(make_door: MakeDoor, stop: Stop) -> None:
    """Nothing is left to wait for when every listener was dropped."""
    stop.request()
    assert make_door().wait() == []


def test_a_dropped_listener_is_watched_no_more(
    listeners: list[FakeListener], make_door: MakeDoor
) -> None:
    """The others go on."""
    door = make_door(*listeners)
    door.wait()
    door.drop(listeners[1])
    door.drop(listeners[1])
    assert set(door.wait()) == {listeners[0], listeners[2]}


def test_closing_gives_the_listeners_back(
    listeners: list[FakeListener], make_door: MakeDoor
) -> None:
    """This process's copies are closed, and nothing is watched any more."""
    make_door(*listeners).close()
    assert [listener.fileno() for listener in listeners] == [-1] * 3


# -- the last byte arrives


def lingers(door: Door, connection: Connection) -> bool:
    """Give the connection to the door and let that look for its end once."""
    door.linger(connection)
    door._lingering.settle_all()
    return connection.fileno() >= 0


def test_who_has_read_to_the_end_is_closed_at_once(make_door: MakeDoor, pair: Pair) -> None:
    """Nothing can be lost if the peer has ended already."""
    connection, client = pair
    client.shutdown(socket.SHUT_WR)
    connection.recv()
    make_door().linger(connection)
    assert connection.fileno() == -1
    assert client.recv(1) == b""


def test_our_end_is_told_at_once(make_door: MakeDoor, pair: Pair) -> None:
    """The peer gets the end of our output while it may still talk."""
    connection, client = pair
    door = make_door()
    assert lingers(door, connection)
    assert client.recv(1) == b""
    client.sendall(b"still talking")
    assert door.has_lingering()


def test_a_peer_that_has_closed_by_now_is_not_watched(make_door: MakeDoor, pair: Pair) -> None:
    """What came in with its end is read, and the connection closed."""
    connection, client = pair
    client.sendall(b"unread")
    client.close()
    door = make_door()
    assert not lingers(door, connection)
    assert not door.has_lingering()


def test_a_peer_that_reset_the_connection_is_not_waited_for(make_door: MakeDoor) -> None:
    """What cannot be shut down any more is closed at once."""
    (listener,) = open_streams("127.0.0.1:0")
    client = socket.create_connection(listener.socket.getsockname(), 5)
    connection = listener.accept()
    assert connection is not None
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    make_door().linger(connection)
    assert connection.fileno() == -1
    listener.close()


def test_a_connection_that_its_handler_closed_is_left_alone(
    make_door: MakeDoor, pair: Pair
) -> None:
    """There is nothing left to wait for."""
    connection, _ = pair
    connection.close()
    door = make_door()
    door.linger(connection)
    assert not door.has_lingering()


def test_a_lingering_connection_is_closed_when_its_peer_closes(
    make_door: MakeDoor, pair: Pair
) -> None:
    """Its unread bytes are thrown away, its end ends it."""
    connection, client = pair
    door = make_door()
    assert lingers(door, connection)
    client.sendall(b"unread")
    door.see_off(block=True)
    assert door.has_lingering()
    client.close()
    door.see_off(block=True)
    assert connection.fileno() == -1
    assert not door.has_lingering()
    assert door.patience() is None


def test_a_peer_that_goes_on_talking_is_cut_off(
    make_door: MakeDoor, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the cap the connection is closed, whatever the peer has still to say."""
    monkeypatch.setattr(lingering_module, "LINGER_BYTES", 10)
    connection, client = pair
    door = make_door()
    assert lingers(door, connection)
    client.sendall(b"123456789")
    door.see_off(block=True)
    assert connection.fileno() >= 0
    client.sendall(b"0")
    door.see_off(block=True)
    assert connection.fileno() == -1


def test_the_cap_is_256_kib() -> None:
    """Anything less than an upload that nobody wants is thrown away in peace."""
    assert LINGER_BYTES == 256 * 1024


def test_a_peer_that_does_not_close_is_not_waited_for_for_ever(
    make_door: MakeDoor, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the deadline the connection is closed."""
    monkeypatch.setattr(lingering_module, "LINGER_TIMEOUT", 0.02)
    connection, client = pair
    door = make_door()
    assert lingers(door, connection)
    door.see_off(block=True)
    assert connection.fileno() == -1
    assert client.recv(1) == b""


def test_a_handlers_own_timeout_is_not_waited_for(make_door: MakeDoor, pair: Pair) -> None:
    """Looking for a peer's end never blocks, whatever timeout the handler has left."""
    connection, _ = pair
    connection.settimeout(30)
    before = monotonic()
    assert lingers(make_door(), connection)
    assert monotonic() - before < 5


def test_lingering_connections_count(make_door: MakeDoor, make_pair: Callable[[], Pair]) -> None:
    """At the bound the door is full, and no more when one has gone."""
    door = make_door(limit=2)
    pairs = [make_pair(), make_pair()]
    assert lingers(door, pairs[0][0])
    is_full = [door.is_full]
    assert lingers(door, pairs[1][0])
    is_full.append(door.is_full)
    pairs[0][1].close()
    door.see_off(block=True)
    is_full.append(door.is_full)
    assert is_full == [False, True, False]


def test_few_peers_are_unsettled(make_door: MakeDoor, make_pair: Callable[[], Pair]) -> None:
    """A peer is looked for after so many more connections at the latest."""
    door = make_door()
    pairs = [make_pair() for _ in range(FRESH + 1)]
    for connection, _ in pairs:
        door.linger(connection)
    assert (len(door._lingering._fresh), door._lingering.count_watched()) == (FRESH, 1)


def test_lingering_goes_on_while_the_door_waits(
    listeners: list[FakeListener], make_door: MakeDoor, pair: Pair, stop: Stop, wait: Wait
) -> None:
    """A peer's end is noticed in the wait for the next connection."""
    connection, client = pair
    door = make_door(listeners[0])
    assert lingers(door, connection)
    listeners[0].reader.recv(99)
    client.close()
    descriptor = connection.fileno()
    reader, writer = os.pipe()
    wait.watch(reader, stop.retire)
    os.write(writer, b"x")
    assert door.wait() == []
    assert descriptor not in door._lingering._watched
    os.close(reader)
    os.close(writer)


def test_seeing_nobody_off_returns(
    make_door: MakeDoor, make_pair: Callable[[], Pair], monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the last peer turns out to have closed already, nothing is waited for."""
    door = make_door()
    connection, client = make_pair()
    client.close()
    door.linger(connection)
    timeouts: list[float | None] = []

    def poll(timeout: float | None) -> list[int]:
        timeouts.append(timeout)
        return []

    monkeypatch.setattr(door._wait, "poll", poll)
    door.see_off(block=True)
    assert connection.fileno() == -1
    assert None not in timeouts


def test_a_worker_that_leaves_alone_refuses_nobody(
    listeners: list[FakeListener], make_door: MakeDoor, stop: Stop
) -> None:
    """The listener is everybody's: only its owner ends it, for all of them."""
    for listener in listeners:
        listener.quiesced = False
        listener.reader.recv(99)
    door = make_door(*listeners)
    stop.request()
    door.is_closing = True
    assert door.wait() == []
    assert not any(listener.is_refusing for listener in listeners)


# -- a listener that is ready and has nothing


def test_a_listener_that_was_shut_down_is_found_dead(make_door: MakeDoor) -> None:
    """Nobody spins on a socket that is ready for ever: who waits learns that it is dead."""
    listener = FakeListener()
    listener.is_shut, listener.quiesced = True, False
    door = make_door(listener)
    with closing(listener), pytest.raises(ListenerDied, match="the fake listener was shut down"):
        _wait_often(door)


def _wait_often(door: Door) -> None:
    for _ in range(3 * FRUITLESS):
        door.wait()


def test_a_listener_that_its_owner_shuts_is_not_dead(make_door: MakeDoor) -> None:
    """At a stop its owner may shut it before we are told to leave."""
    listener = FakeListener()
    listener.is_shut = True
    door = make_door(listener)
    with closing(listener):
        _wait_often(door)
