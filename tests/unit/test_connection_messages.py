"""However a stream of messages is cut up on its way, it is read back as it was."""

import itertools
import socket
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forkserve.connection import Connection
from forkserve.errors import MessageTooLong
from forkserve.streams import Reader
from tests.unit.conftest import Pair
from tests.unit.fakes import make_connection

if TYPE_CHECKING:
    from typing_extensions import Buffer

SEPARATOR = b"\r\n;"
READERS = ("recv_until", "recv_exactly", "readline", "read", "readinto", "recv", "makefile")

almost = st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b"x", b";"]), max_size=6).map(b"".join)
body = st.one_of(st.binary(max_size=40), almost)
messages = st.lists(st.tuples(st.sampled_from(READERS), body), max_size=8)
cuts = st.lists(st.integers(1, 12), min_size=1, max_size=8)


def encode(reader: str, data: bytes) -> bytes:
    """Return the data as that way to read finds its end."""
    if reader == "recv_until":
        return data.replace(SEPARATOR, b"") + SEPARATOR
    if reader in ("readline", "makefile"):
        return data.replace(b"\n", b"") + b"\n"
    return data


def read_back(reader: str, connection: Connection, wanted: bytes) -> bytes:
    """Read one message the given way."""
    if reader == "recv_until":
        return connection.recv_until(SEPARATOR)
    if reader == "recv_exactly":
        return connection.recv_exactly(len(wanted))
    if reader == "readline":
        return Reader(connection).readline()
    if reader == "read":
        return Reader(connection).read(len(wanted))
    if reader == "readinto":
        target = bytearray(len(wanted))
        Reader(connection).readinto(target)
        return bytes(target)
    if reader == "makefile":
        return bytes(connection.makefile("rb", 0).readline())
    got = b""
    while len(got) < len(wanted):
        got += connection.recv(len(wanted) - len(got))
    return got


class Cut(Connection):
    """A connection whose bytes arrive in the pieces that a test wants, then their end."""

    __slots__ = ("client", "pieces")

    client: socket.socket
    pieces: list[bytes]

    def arrive(self) -> None:
        """Let the next piece arrive."""
        if self.pieces:
            self.client.sendall(self.pieces.pop(0))
        else:
            self.client.shutdown(socket.SHUT_WR)

    def receive_more(self, size: int) -> bool:
        """Let the next piece arrive, then receive as always."""
        self.arrive()
        return super().receive_more(size)

    def recv(self, size: int = 65536, flags: int = 0, /) -> bytes:
        """Let the next piece arrive, then receive as always."""
        self.arrive()
        return super().recv(size, flags)

    def recv_into(self, buffer: "Buffer", nbytes: int = 0, flags: int = 0, /) -> int:
        """Let the next piece arrive, then receive as always."""
        self.arrive()
        return super().recv_into(buffer, nbytes, flags)


def cut_up(data: bytes, sizes: list[int]) -> list[bytes]:
    """Return the data in pieces of these sizes, used again and again."""
    pieces: list[bytes] = []
    for size in itertools.cycle(sizes):
        if not data:
            return pieces
        pieces.append(data[:size])
        data = data[size:]
    return pieces


@settings(max_examples=150, deadline=None, derandomize=True)
@given(messages, cuts)
def test_messages_come_back_however_they_are_cut(
    sent: list[tuple[str, bytes]], sizes: list[int]
) -> None:
    """Any messages, in any pieces, read in any mix of ways, are the messages that were sent."""
    wire = [(reader, encode(reader, data)) for reader, data in sent]
    ours, client = socket.socketpair()
    with client, closing(make_connection(ours, Cut)) as connection:
        connection.client = client
        connection.pieces = cut_up(b"".join(data for _, data in wire), sizes)
        got = [(reader, read_back(reader, connection, data)) for reader, data in wire]
        assert got == wire
        assert Reader(connection).read() == b""


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.binary(max_size=60), cuts, st.integers(1, 12), st.sampled_from([b"\n", SEPARATOR]))
def test_a_limit_holds_however_a_message_is_cut(
    data: bytes, sizes: list[int], limit: int, separator: bytes
) -> None:
    """A message within the limit is returned, a longer one is not: the pieces do not matter."""
    wire = data + separator
    end = wire.index(separator) + len(separator)
    ours, client = socket.socketpair()
    with client, closing(make_connection(ours, Cut)) as connection:
        connection.client = client
        connection.pieces = cut_up(wire, sizes)
        if end <= limit:
            assert connection.recv_until(separator, limit) == wire[:end]
        else:
            with pytest.raises(MessageTooLong):
                connection.recv_until(separator, limit)


def test_an_empty_separator_is_refused(pair: Pair) -> None:
    """It would end a message before its first byte, and a loop of messages never."""
    with pytest.raises(ValueError, match="empty separator"):
        pair[0].recv_until(b"")
