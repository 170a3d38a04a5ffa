"""Any mix of reads, over any pieces in which the bytes arrive, reads the one stream of bytes."""

import io
import itertools
import select
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forkserve.connection import WRITE_SIZE, Connection
from forkserve.errors import IncompleteRead, MessageTooLong
from forkserve.streams import Reader, Writer
from tests.unit.conftest import Pair
from tests.unit.fakes import make_connection

if TYPE_CHECKING:
    from typing_extensions import Buffer

# -- what arrives, and when


class Fed(Connection):
    """A connection to which the next piece is sent whenever a read would wait, the end after it."""

    __slots__ = ("client", "pieces", "urgent")

    client: socket.socket
    pieces: list[bytes]
    urgent: int  # before so many of the last pieces an urgent byte is sent; -1: never

    def arrive(self, count: int = 1) -> None:
        """Send the next pieces, or the end if there are no more."""
        for _ in range(count):
            if len(self.pieces) == self.urgent:
                self.client.send(b"!", socket.MSG_OOB)
                self.urgent = -1
            if not self.pieces:
                self.client.shutdown(socket.SHUT_WR)
                return
            self.client.sendall(self.pieces.pop(0))

    def _feed(self) -> None:
        if not select.select([self], [], [], 0)[0]:
            self.arrive()

    def receive_more(self, size: int) -> bool:
        """Let something be there, then receive as always."""
        self._feed()
        return super().receive_more(size)

    def recv(self, size: int = 65536, flags: int = 0, /) -> bytes:
        """Let something be there, then receive as always."""
        self._feed()
        return super().recv(size, flags)

    def recv_into(self, buffer: "Buffer", nbytes: int = 0, flags: int = 0, /) -> int:
        """Let something be there, then receive as always."""
        self._feed()
        return super().recv_into(buffer, nbytes, flags)


def unix_pair() -> tuple[socket.socket, socket.socket]:
    """Return the two ends of a Unix connection."""
    return socket.socketpair()


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Return the two ends of a TCP connection on loopback."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        client = socket.create_connection(listening.getsockname(), 5)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listening.accept()[0], client


@contextmanager
def fed(
    pair: Callable[[], tuple[socket.socket, socket.socket]], pieces: list[bytes], urgent: int = -1
) -> Iterator[Fed]:
    """Yield a connection on which these pieces arrive."""
    ours, client = pair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 2, 0))  # not for ever
    with client, closing(make_connection(ours, Fed)) as connection:
        connection.client, connection.pieces, connection.urgent = client, list(pieces), urgent
        yield connection


# -- the model: all that will ever come, and how far it has been read


@dataclass
class Model:
    """A stream of bytes as who reads it sees it."""

    data: bytes
    position: int = 0

    def take(self, size: int) -> bytes:
        """Read so many bytes, fewer only at the end."""
        taken = self.data[self.position : self.position + size]
        self.position += len(taken)
        return taken

    def rest(self) -> bytes:
        """Return what has not been read."""
        return self.data[self.position :]

    def until(self, separator: bytes, limit: int) -> bytes | type[Exception]:
        """Read a message and its separator, or say why there is none."""
        rest = self.rest()
        if separator not in rest:
            return MessageTooLong if len(rest) >= limit else IncompleteRead
        size = rest.index(separator) + len(separator)
        return MessageTooLong if size > limit else self.take(size)

    def line(self, limit: int = -1) -> bytes:
        """Read a line, or as much of one as the limit allows."""
        rest = self.rest()
        size = rest.find(b"\n") + 1 or len(rest)
        return self.take(size if limit < 0 else min(size, limit))

    def lines(self, hint: int) -> list[bytes]:
        """Read lines until there are so many bytes of them; 0 and less: all."""
        lines: list[bytes] = []
        while (hint <= 0 or sum(map(len, lines)) < hint) and (line := self.line()):
            lines.append(line)
        return lines


# -- the operations: each does the same to both, and says whether they agree


Operation = Callable[[Fed, Model], None]
sizes = st.integers(0, 20)
SEPARATORS = [b"\n", b"\r\n", b"\r\n\r\n", b"abab", b"aa", b"\0"]


def agree_on_some(got: bytes, model: Model, size: int, *, taken: bool = True) -> None:
    """Compare what a read got that takes what there is: some of what comes next, or the end."""
    assert got == model.rest()[: len(got)]
    assert len(got) <= size
    assert got or not size or not model.rest()
    model.take(len(got) if taken else 0)


def recv(size: int) -> Operation:
    """Receive at most so much."""
    return lambda connection, model: agree_on_some(connection.recv(size), model, size)


def peek_by_flag(size: int) -> Operation:
    """Look at most so far."""

    def do(connection: Fed, model: Model) -> None:
        agree_on_some(connection.recv(size, socket.MSG_PEEK), model, size, taken=False)

    return do


def fill(read: Callable[[Fed, bytearray], int], size: int) -> Operation:
    """Read into a buffer of so much what there is."""

    def do(connection: Fed, model: Model) -> None:
        target = bytearray(size)
        agree_on_some(bytes(target[: read(connection, target)]), model, size)

    return do


def fill_all(size: int) -> Operation:
    """Read into a buffer until it is full."""

    def do(connection: Fed, model: Model) -> None:
        target = bytearray(size)
        count = Reader(connection).readinto(target)
        assert bytes(target[:count]) == model.take(size)

    return do


def recv_exactly(size: int) -> Operation:
    """Receive just so much; a peer that ends before is told by what did arrive."""

    def do(connection: Fed, model: Model) -> None:
        wanted = model.take(size)
        if len(wanted) == size:
            assert connection.recv_exactly(size) == wanted
            return
        with pytest.raises(IncompleteRead) as caught:
            connection.recv_exactly(size)
        assert caught.value.partial == wanted

    return do


def recv_until(separator: bytes, limit: int) -> Operation:
    """Receive up to a separator."""

    def do(connection: Fed, model: Model) -> None:
        wanted = model.until(separator, limit)
        if isinstance(wanted, bytes):
            assert connection.recv_until(separator, limit) == wanted
            return
        with pytest.raises(wanted) as caught:
            connection.recv_until(separator, limit)
        if isinstance(caught.value, IncompleteRead):
            assert caught.value.partial == model.take(len(model.rest()))

    return do


def just_at_the_limit(separator: bytes, spare: int) -> Operation:
    """Receive up to a separator, with a limit that is just enough or one too small."""

    def do(connection: Fed, model: Model) -> None:
        found = model.rest().find(separator)
        limit = max(0, (found if found >= 0 else len(model.rest())) + len(separator) - spare)
        recv_until(separator, limit)(connection, model)

    return do


def read(size: int | None) -> Operation:
    """Read so much, or all."""

    def do(connection: Fed, model: Model) -> None:
        wanted = len(model.rest()) if size is None or size < 0 else size
        assert Reader(connection).read(size) == model.take(wanted)

    return do


def readline(limit: int) -> Operation:
    """Read a line."""

    def do(connection: Fed, model: Model) -> None:
        assert Reader(connection).readline(limit) == model.line(limit)

    return do


def makefile_readline(connection: Fed, model: Model) -> None:
    """Read a line through a file without a buffer of its own."""
    assert connection.makefile("rb", 0).readline() == model.line()


def readlines(hint: int) -> Operation:
    """Read some lines."""

    def do(connection: Fed, model: Model) -> None:
        assert Reader(connection).readlines(hint) == model.lines(hint)

    return do


def iterate(count: int) -> Operation:
    """Take some lines of a loop over the file."""

    def do(connection: Fed, model: Model) -> None:
        lines = list(itertools.islice(Reader(connection), count))
        assert lines == [line for _ in range(count) if (line := model.line())]

    return do


def peek(connection: Fed, model: Model) -> None:
    """Look at what there is."""
    agree_on_some(Reader(connection).peek(), model, len(model.data), taken=False)


def read1(size: int) -> Operation:
    """Read what there is, through the file."""
    return lambda connection, model: agree_on_some(Reader(connection).read1(size), model, size)


def arrive(count: int) -> Operation:
    """Let pieces arrive before anyone asks, so that messages come together."""

    def do(connection: Fed, model: Model) -> None:
        connection.arrive(min(count, len(connection.pieces)))

    return do


operations = st.one_of(
    st.builds(arrive, st.integers(1, 8)),
    st.builds(recv, sizes),
    st.builds(peek_by_flag, sizes),
    st.builds(fill, st.just(Fed.recv_into), st.integers(1, 20)),
    st.builds(fill, st.just(lambda c, target: Reader(c).readinto1(target)), st.integers(1, 20)),
    st.builds(fill_all, sizes),
    st.builds(recv_exactly, sizes),
    st.builds(recv_until, st.sampled_from(SEPARATORS), sizes),
    st.builds(just_at_the_limit, st.sampled_from(SEPARATORS), st.integers(-1, 1)),
    st.builds(read, sizes),
    st.builds(read1, sizes),
    st.builds(readline, st.integers(-1, 20)),
    st.builds(readlines, st.integers(1, 20)),
    st.builds(iterate, st.integers(1, 3)),
    st.just(peek),
    st.just(makefile_readline),
)
to_the_end = st.one_of(
    st.builds(read, st.sampled_from([-1, None])), st.builds(readlines, st.integers(-1, 0))
)
parts = st.one_of(
    st.sampled_from([b"\n", b"\r", b"\r\n", b"\r\n\r\n", b"a", b"b", b"ab", b"x", b"\0"]),
    st.binary(max_size=12),
)
data = st.lists(parts, max_size=30).map(b"".join)
cuts = st.lists(st.integers(1, 12), min_size=1, max_size=6) | st.just([1])
plans = st.lists(operations, max_size=25)


def cut_up(stream: bytes, lengths: list[int]) -> list[bytes]:
    """Return the stream in pieces of these lengths, used again and again."""
    whole = io.BytesIO(stream)
    pieces: list[bytes] = []
    while piece := whole.read(lengths[len(pieces) % len(lengths)]):
        pieces.append(piece)
    return pieces


def follow(connection: Fed, model: Model, plan: list[Operation]) -> None:
    """Do to both what the plan says, and see that the end is the end for every kind of read."""
    for operation in plan:
        operation(connection, model)
    assert model.rest() == b""
    for operation in (recv(9), read1(9), readline(-1), read(9), recv_exactly(1), recv_exactly(0)):
        operation(connection, model)
    assert connection.at_end


@settings(max_examples=800, deadline=None, derandomize=True)
@given(data, cuts, plans, to_the_end)
def test_reads_in_any_order(
    stream: bytes, lengths: list[int], plan: list[Operation], rest: Operation
) -> None:
    """Every read returns what comes next, whatever was read before it and however it arrived."""
    with fed(unix_pair, cut_up(stream, lengths)) as connection:
        follow(connection, Model(stream), [*plan, rest])


@settings(max_examples=300, deadline=None, derandomize=True)
@given(data, cuts, plans, to_the_end, st.integers(0, 12))
def test_reads_around_an_urgent_byte(
    stream: bytes, lengths: list[int], plan: list[Operation], rest: Operation, urgent: int
) -> None:
    """Over TCP the same, and an urgent byte among the others is not one of them (F105)."""
    pieces = cut_up(stream, lengths)
    with fed(tcp_pair, pieces, urgent=min(urgent, len(pieces))) as connection:
        follow(connection, Model(stream), [*plan, rest])


# -- writing


WRITES: dict[str, Callable[[Connection, bytes], Any]] = {
    "write": Connection.write,
    "send_all": Connection.send_all,
    "sendall": Connection.sendall,
    "send_last": Connection.send_last,
    "wfile": lambda connection, piece: Writer(connection).write(piece),
    "writelines": lambda connection, piece: Writer(connection).writelines([piece, b"", piece]),
    "flush": lambda connection, piece: connection.flush(),
}
lengths_to_write = st.sampled_from([0, 1, 7, WRITE_SIZE - 1, WRITE_SIZE, WRITE_SIZE + 1])
writes = st.lists(st.tuples(st.sampled_from(sorted(WRITES)), lengths_to_write), max_size=8)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(writes)
def test_writes_in_any_order(plan: list[tuple[str, int]]) -> None:
    """The peer gets everything in the order in which it was written, however it was written."""
    ours, client = socket.socketpair()
    wanted = b""
    with client, closing(make_connection(ours)) as connection:
        for number, (verb, length) in enumerate(plan):
            piece = bytes([65 + number]) * length
            WRITES[verb](connection, piece)
            wanted += {"flush": b"", "writelines": 2 * piece}.get(verb, piece)
        connection.shutdown_write()
        with client.makefile("rb") as file:
            assert file.read() == wanted


@pytest.mark.parametrize("verb", sorted(WRITES))
def test_a_write_of_nothing(verb: str, pair: Pair) -> None:
    """Nothing written is nothing sent, and not the end."""
    connection, client = pair
    WRITES[verb](connection, b"")
    connection.flush()
    assert not select.select([client], [], [], 0)[0]
    connection.send_all(b"something")
    assert client.recv(99) == b"something"


# -- a peer that ends its side, and listens on


def test_an_answer_to_a_message_cut_short(pair: Pair) -> None:
    """Who is cut short in the middle of a message knows how far it came and can still answer."""
    connection, client = pair
    client.sendall(b"complete;incompl")
    client.shutdown(socket.SHUT_WR)
    assert connection.recv_until(b";") == b"complete;"
    with pytest.raises(IncompleteRead) as caught:
        connection.recv_until(b";")
    connection.send_all(caught.value.partial)
    assert client.recv(99) == b"incompl"
