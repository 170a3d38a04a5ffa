"""How datagrams are received, answered, counted and refused."""

import errno
import logging
import os
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from forkserve.address import parse_address
from forkserve.binding import open_listeners
from forkserve.datagram import Datagram, DatagramListener
from forkserve.endpoint import ListenerDied
from forkserve.errors import ListenError
from forkserve.handler import DatagramHandler, serve_with
from forkserve.run_handler import Inline, make_run_datagram, make_run_handler
from forkserve.stop import Stop
from tests.support.requirements import requires_ipv6
from tests.unit.fakes import take_slot

Open = Callable[..., DatagramListener]
Client = Callable[..., socket.socket]

UDP = "udp://127.0.0.1:0"


@pytest.fixture
def listen() -> Iterator[Open]:
    """Return what opens a listener of datagrams, which is closed in the end."""
    opened: list[DatagramListener] = []

    def listen(text: object = UDP) -> DatagramListener:
        (one,) = open_listeners([parse_address(str(text))])
        assert isinstance(one, DatagramListener)
        opened.append(one)
        return one

    yield listen
    for one in opened:
        one.close()


@pytest.fixture
def make_client(tmp_path: Path) -> Iterator[Client]:
    """Return what makes a client of a listener, with a name of its own or without."""
    made: list[socket.socket] = []

    def make(listener: DatagramListener, host: str = "", name: str = "client") -> socket.socket:
        kind = socket.AF_UNIX if listener.path else socket.AF_INET6 if ":" in host else 0
        client = socket.socket(kind or socket.AF_INET, socket.SOCK_DGRAM)
        made.append(client)
        if listener.path:
            if name:
                client.bind(f"{tmp_path}/{name}")
            client.connect(listener.path)
        else:
            port = listener.socket.getsockname()[1]
            client.connect((host or "127.0.0.1", port))
        client.settimeout(5)
        return client

    yield make
    for client in made:
        client.close()
    for path in tmp_path.glob("client*"):
        path.unlink()


@pytest.fixture(params=["udp", "unixgram"])
def pair(
    request: pytest.FixtureRequest, listen: Open, make_client: Client, tmp_path: Path
) -> tuple[DatagramListener, socket.socket]:
    """Return a listener and a client of it, over UDP and over a Unix socket."""
    listener = listen(UDP if request.param == "udp" else f"unixgram://{tmp_path}/s")
    return listener, make_client(listener)


def taken(listener: DatagramListener) -> Datagram:
    """Return the datagram that is in the queue."""
    datagram = listener.accept()
    assert datagram is not None
    return datagram


def fail_with(listener: Any, *errors: int) -> None:
    """Let the next receptions fail, and then there is nothing."""
    script = [*(OSError(number, os.strerror(number)) for number in errors), BlockingIOError()]

    def receive(*arguments: object) -> None:
        raise script.pop(0)

    listener._recvfrom = listener._recvmsg = receive


# -- receiving


def test_an_empty_queue(pair: tuple[DatagramListener, socket.socket]) -> None:
    """accept() does not wait."""
    assert pair[0].accept() is None


def test_datagrams_come_one_by_one(pair: tuple[DatagramListener, socket.socket]) -> None:
    """Each accept() takes one datagram, an empty one too."""
    listener, client = pair
    for data in (b"one", b"", b"two"):
        client.send(data)
    assert [taken(listener).data for _ in range(3)] == [b"one", b"", b"two"]
    assert listener.accept() is None


def test_a_datagram_knows_its_two_ends(pair: tuple[DatagramListener, socket.socket]) -> None:
    """Peer and local are addresses as the socket module gives them, a path as configured."""
    listener, client = pair
    client.send(b"x")
    datagram = taken(listener)
    assert datagram.peer == client.getsockname()
    assert datagram.local == (listener.path or client.getpeername())


@pytest.mark.parametrize(("size", "truncated"), [(999, False), (1000, False), (1001, True)])
@pytest.mark.parametrize("transport", ["udp", "unixgram"])
def test_a_cut_datagram_says_so(
    transport: str, size: int, truncated: bool, listen: Open, make_client: Client, tmp_path: Path
) -> None:
    """`truncated` says that there were more bytes than max_size."""
    place = UDP if transport == "udp" else f"unixgram://{tmp_path}/s"
    listener = listen(f"{place}?max_size=1000")
    make_client(listener).send(bytes(size))
    datagram = taken(listener)
    assert (len(datagram.data), datagram.truncated) == (min(size, 1000), truncated)


@pytest.mark.parametrize(
    "number",
    [
        errno.ECONNREFUSED,
        errno.ECONNRESET,
        errno.EHOSTUNREACH,
        errno.ENETUNREACH,
        errno.ENETDOWN,
        errno.EMSGSIZE,
        errno.EPERM,
        errno.EPROTO,
    ],
)
def test_news_of_an_answer_is_passed_over(number: int, listen: Open) -> None:
    """That an earlier answer has not arrived is no failure to receive."""
    listener = listen()
    fail_with(listener, number)
    assert listener.accept() is None


@pytest.mark.parametrize("number", [errno.ENOMEM, errno.ENOBUFS])
def test_a_limit_of_the_machine_is_for_the_accept_loop(number: int, listen: Open) -> None:
    """The accept loop pauses for it."""
    listener = listen()
    fail_with(listener, number)
    with pytest.raises(OSError, match=os.strerror(number)):
        listener.accept()


def test_a_closed_socket_is_the_end_of_a_listener(listen: Open) -> None:
    """A socket that somebody else has closed is said to be."""
    listener = listen()
    listener.socket.close()
    with pytest.raises(ListenerDied, match="closed by somebody else"):
        listener.accept()


# -- answering


def test_the_answer_goes_to_the_sender(pair: tuple[DatagramListener, socket.socket]) -> None:
    """reply() may be called as often as one likes, also with nothing."""
    listener, client = pair
    client.send(b"x")
    datagram = taken(listener)
    for data in (b"one", b"", bytearray(b"two"), memoryview(b"three")):
        datagram.reply(data)
    assert [client.recv(9) for _ in range(4)] == [b"one", b"", b"two", b"three"]


def test_a_sender_without_an_address(listen: Open, make_client: Client, tmp_path: Path) -> None:
    """It has no peer, and what reply() raises is the sender's business."""
    listener = listen(f"unixgram://{tmp_path}/s")
    make_client(listener, name="").send(b"x")
    datagram = taken(listener)
    assert datagram.peer is None
    with pytest.raises(OSError, match="no address") as raised:
        datagram.reply(b"x")
    assert datagram.is_lost(raised.value)


def test_a_sender_that_has_gone(listen: Open, make_client: Client, tmp_path: Path) -> None:
    """An answer to nobody is lost, and that is no failure of the handler."""
    listener = listen(f"unixgram://{tmp_path}/s")
    client = make_client(listener)
    client.send(b"x")
    datagram = taken(listener)
    client.close()
    with pytest.raises(ConnectionRefusedError) as raised:
        datagram.reply(b"x")
    assert datagram.is_lost(raised.value)


def test_a_sender_that_does_not_read(listen: Open, make_client: Client, tmp_path: Path) -> None:
    """Its answers are given up after a second or so: nobody waits for it for ever."""
    listener = listen(f"unixgram://{tmp_path}/s")
    make_client(listener).send(b"x")
    datagram = taken(listener)
    with pytest.raises(BlockingIOError) as raised:  # noqa: PT012
        for _ in range(1000):
            datagram.reply(b"x")
    assert datagram.is_lost(raised.value)


def test_an_answer_that_is_too_large_is_the_handlers_fault(
    listen: Open, make_client: Client
) -> None:
    """What no datagram can carry is not lost on the way."""
    listener = listen()
    make_client(listener).send(b"x")
    datagram = taken(listener)
    with pytest.raises(OSError, match="too long") as raised:
        datagram.reply(bytes(70000))
    assert not datagram.is_lost(raised.value)


def test_another_error_is_not_a_lost_answer(listen: Open, make_client: Client) -> None:
    """What a handler meets elsewhere is not the peer's doing, even of the same kind."""
    listener = listen()
    make_client(listener).send(b"x")
    assert not taken(listener).is_lost(ConnectionRefusedError())


@pytest.mark.parametrize("place", ["udp://0.0.0.0:0", "udp://:0"])
@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "127.1.2.3"])
def test_the_answer_leaves_from_the_address_that_was_asked(
    place: str, host: str, listen: Open, make_client: Client
) -> None:
    """A client that takes answers from the address it has asked gets its answer."""
    listener = listen(place)
    client = make_client(listener, host)
    client.send(b"x")
    datagram = taken(listener)
    assert datagram.peer == client.getsockname()
    datagram.reply(b"answer")
    assert client.recv(9) == b"answer"


def test_an_ipv6_sender_of_a_dual_stack_socket(listen: Open, make_client: Client) -> None:
    """IPv6 peers are shown and answered as they are."""
    requires_ipv6()
    listener = listen("udp://:0")
    client = make_client(listener, "::1")
    client.send(b"x")
    datagram = taken(listener)
    assert datagram.peer == client.getsockname()
    datagram.reply(b"answer")
    assert client.recv(9) == b"answer"


def test_an_answer_to_a_multicast_question_leaves_from_an_address_of_ours(
    listen: Open, make_client: Client
) -> None:
    """Nothing can be sent from a multicast address: the kernel chooses another."""
    listener = listen("udp://0.0.0.0:0")
    loopback = socket.inet_aton("127.0.0.1")
    membership = socket.inet_aton("224.0.0.251") + loopback
    listener.socket.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, loopback)
        client.settimeout(5)
        client.sendto(b"x", ("224.0.0.251", listener.socket.getsockname()[1]))
        taken(listener).reply(b"answer")
        assert client.recv(9) == b"answer"


# -- what was lost


def overflow(client: socket.socket) -> None:
    """Send more than a queue has room for."""
    for _ in range(2000):
        client.send(b"x")


def count_waiting(listener: DatagramListener) -> int:
    """Take all that is in the queue, and return how many that were."""
    count = 0
    while listener.accept() is not None:
        count += 1
    return count


def test_what_is_lost_is_counted(listen: Open, make_client: Client) -> None:
    """Each datagram is either in the queue or counted."""
    listener = listen()
    assert listener.count_drops() == 0
    overflow(make_client(listener))
    drops = listener.count_drops()
    assert drops > 0
    assert drops + count_waiting(listener) == 2000


def test_what_was_lost_before_is_not_ours(listen: Open, make_client: Client) -> None:
    """Of an inherited socket only what is lost from now on is counted."""
    owner = listen()
    overflow(make_client(owner))
    with owner.socket.dup() as bound:
        heir = DatagramListener(owner.address, bound, is_owned=False)
        assert heir.count_drops() == 0


def test_what_is_lost_is_said_once_in_a_while(
    listen: Open, make_client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    """A flood does not flood the log, and without one nothing is said."""
    listener = listen()
    listener.look_for_drops(100.0)
    assert caplog.messages == []
    client = make_client(listener)
    overflow(client)
    listener.look_for_drops(101.0)
    assert caplog.messages == []
    listener.look_for_drops(106.0)
    overflow(client)
    listener.look_for_drops(107.0)
    assert len(caplog.messages) == 1
    listener.look_for_drops(112.0)
    assert len(caplog.messages) == 2
    assert f"{listener.count_drops()} datagrams found the queue full" in caplog.messages[1]


@pytest.mark.parametrize("transport", ["udp", "unixgram"])
def test_a_longer_queue(transport: str, listen: Open, tmp_path: Path) -> None:
    """`receive_buffer` is the kernel's, which doubles it (socket(7))."""
    place = UDP if transport == "udp" else f"unixgram://{tmp_path}/s"
    listener = listen(f"{place}?receive_buffer=100000")
    assert listener.socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == 200_000


# -- the end


def test_a_quiesced_listener_gives_what_it_has(
    pair: tuple[DatagramListener, socket.socket],
) -> None:
    """What has come before can be taken and answered; what comes later is not let in."""
    listener, client = pair
    client.send(b"before")
    listener.quiesce()
    assert listener.is_quiesced()
    if listener.path:
        with pytest.raises(BrokenPipeError):
            client.send(b"after")
    else:
        client.send(b"after")
    datagram = taken(listener)
    assert datagram.data == b"before"
    assert listener.accept() is None
    datagram.reply(b"answer")
    assert client.recv(9) == b"answer"


def test_the_path_is_gone_when_quiesced(listen: Open, tmp_path: Path) -> None:
    """Nobody comes to a Unix socket that is about to end."""
    listener = listen(f"unixgram://{tmp_path}/s")
    assert (tmp_path / "s").exists()
    listener.quiesce()
    assert not (tmp_path / "s").exists()


def test_an_inherited_socket_is_left_open_to_others(listen: Open, make_client: Client) -> None:
    """Who did not bind it lets datagrams in to the end."""
    owner = listen()
    with owner.socket.dup() as bound:
        heir = DatagramListener(owner.address, bound, is_owned=False)
        heir.quiesce()
        assert not heir.is_quiesced()
        make_client(owner).send(b"for the owner")
        assert taken(owner).data == b"for the owner"


# -- binding


def test_a_port_in_use_is_not_shared(listen: Open) -> None:
    """A second listener at one port is refused."""
    with pytest.raises(ListenError, match="in use"):
        listen(listen())


def test_a_path_in_use_is_not_taken(listen: Open, tmp_path: Path) -> None:
    """A second listener at one path is refused, and a stream listener too."""
    listen(f"unixgram://{tmp_path}/s")
    with pytest.raises(ListenError, match="another server"):
        listen(f"unixgram://{tmp_path}/s")
    with pytest.raises(ListenError, match="another server"):
        listen(f"unix://{tmp_path}/s")


def test_a_stale_path_is_taken(listen: Open, tmp_path: Path) -> None:
    """A Unix datagram socket that nobody has is replaced."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as gone:
        gone.bind(f"{tmp_path}/s")
    listener = listen(f"unixgram://{tmp_path}/s?mode=0600")
    assert listener.accept() is None
    assert (tmp_path / "s").stat().st_mode & 0o777 == 0o600


# -- the handler


class Failing(DatagramHandler):
    """Raise what the datagram says, or answer."""

    def handle(self) -> None:
        data = self.datagram.data
        if data == b"raise":
            raise ValueError("no")
        self.datagram.reply(data)


@pytest.mark.parametrize(("data", "level"), [(b"raise", logging.ERROR), (b"answer", logging.DEBUG)])
def test_whose_fault_it_is(
    data: bytes,
    level: int,
    listen: Open,
    make_client: Client,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A handler's own error is an error; an answer that nobody takes is for developers."""
    caplog.set_level(logging.DEBUG)
    listener = listen(f"unixgram://{tmp_path}/s")
    make_client(listener, name="").send(data)
    slot = take_slot()
    lane = Inline(0, slot.record(0))
    run = make_run_handler(serve_with(Failing), Datagram.close, Stop(), lane, slot)
    run(taken(listener))
    assert [record.levelno for record in caplog.records] == [level]


@pytest.mark.parametrize(
    ("data", "errors"),
    [
        (b"raise", {"lost": 0, "timed_out": 0, "raised": 1}),
        (b"answer", {"lost": 1, "timed_out": 0, "raised": 0}),
    ],
)
def test_datagrams_alone_are_served_by_less(
    data: bytes, errors: dict[str, int], listen: Open, make_client: Client, tmp_path: Path
) -> None:
    """Where there is nothing to close, a datagram is shown, reported and counted all the same."""
    listener = listen(f"unixgram://{tmp_path}/s")
    make_client(listener, name="").send(data)
    slot = take_slot()
    lane = Inline(0, slot.record(0))
    seen: list[bool] = []

    def serve(datagram: Datagram) -> None:
        seen.append(lane.current is datagram and bool([*slot.held()]))
        serve_with(Failing)(datagram)

    make_run_datagram(serve, Stop(), lane, slot)(taken(listener))
    assert seen == [True]
    assert (lane.current, list(slot.held())) == (None, [])
    assert (slot.count_served(), slot.count_errors()) == (1, errors)


def test_what_a_handler_finds(pair: tuple[DatagramListener, socket.socket]) -> None:
    """A handler has what a socketserver handler has, under the same names."""
    listener, client = pair
    client.send(b"x")
    handler = DatagramHandler(taken(listener))
    assert handler.request == (b"x", listener.socket)
    assert handler.client_address == client.getsockname()
    with pytest.raises(NotImplementedError, match="DatagramHandler has no handle"):
        handler.handle()


def test_a_datagram_is_nothing_that_lingers(pair: tuple[DatagramListener, socket.socket]) -> None:
    """What dispatchers do to a connection leaves a datagram and its socket as they are."""
    listener, client = pair
    client.send(b"x")
    datagram = taken(listener)
    datagram.interrupt()
    datagram.end_if_idle()
    datagram.shutdown(socket.SHUT_RDWR)
    datagram.close()
    assert datagram.at_end
    assert not datagram.is_idle
    datagram.reply(b"answer")
    assert client.recv(9) == b"answer"


def test_a_reply_waits_a_second_at_most(listen: Open) -> None:
    """The kernel gives up an answer by itself, without a poll before each."""
    option = listen().socket.getsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, 16)
    assert struct.unpack("ll", option) == (1, 0)
