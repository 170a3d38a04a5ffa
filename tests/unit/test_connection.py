"""What a handler can do with its connection, and what the peer sees of it."""

import array
import io
import os
import select
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from forkserve.connection import RECEIVE_SIZE, WRITE_SIZE, Connection, close_quietly, plain_ipv4
from forkserve.errors import IncompleteRead, MessageTooLong
from forkserve.listener import Listener
from forkserve.streams import Reader, Writer
from tests.unit.conftest import Pair
from tests.unit.fakes import FakeServer, is_closed, open_streams


def is_silent(client: socket.socket) -> bool:
    """Tell whether nothing has arrived at a client so far."""
    return not select.select([client], [], [], 0)[0]


def read_all(client: socket.socket) -> bytes:
    """Return everything up to the end of the input."""
    with client.makefile("rb") as file:
        return file.read()


@pytest.fixture
def listener() -> Iterator[Listener]:
    """Return a listener on loopback."""
    (listener,) = open_streams("127.0.0.1:0")
    listener.server = FakeServer()
    with closing(listener):
        yield listener


# -- recv


def test_recv_returns_what_there_is(pair: Pair) -> None:
    """recv() does not wait for more than there is."""
    connection, client = pair
    client.sendall(b"hello")
    assert connection.recv() == b"hello"


def test_recv_returns_nothing_at_the_end(pair: Pair) -> None:
    """The end of the input is b"", and is remembered."""
    connection, client = pair
    client.shutdown(socket.SHUT_WR)
    assert not connection.at_end
    assert connection.recv() == b""
    assert connection.at_end


def test_recv_of_nothing_is_not_the_end(pair: Pair) -> None:
    """Who asks for no bytes and gets none has learned nothing."""
    connection, _ = pair
    assert connection.recv(0) == b""
    assert not connection.at_end


def test_recv_begins_with_what_another_read_left_over(pair: Pair) -> None:
    """All reads share one buffer, and recv() does not wait while that holds something."""
    connection, client = pair
    client.sendall(b"head\nbody")
    assert connection.recv_until(b"\n") == b"head\n"
    assert connection.recv(2) == b"bo"
    assert connection.recv() == b"dy"
    client.sendall(b"more")
    assert connection.recv() == b"more"


def test_recv_can_peek(pair: Pair) -> None:
    """MSG_PEEK takes nothing, from the buffer no more than from the kernel."""
    connection, client = pair
    client.sendall(b"abc")
    assert connection.recv(2, socket.MSG_PEEK) == b"ab"
    assert connection.recv_exactly(1) == b"a"
    assert connection.recv(9, socket.MSG_PEEK) == b"bc"
    assert connection.recv(9) == b"bc"


def test_recv_into_a_buffer(pair: Pair) -> None:
    """recv_into() fills what it is given, from the buffer first, and says how much."""
    connection, client = pair
    target = bytearray(4)
    client.sendall(b"abcd")
    assert connection.recv_into(target, 2) == 2
    assert connection.recv_exactly(1) == b"c"
    assert connection.recv_into(target) == 1
    assert target == b"db\0\0"
    client.shutdown(socket.SHUT_WR)
    assert connection.recv_into(target) == 0
    assert connection.at_end


def test_recv_into_a_typed_buffer(pair: Pair) -> None:
    """A buffer of wider items counts in bytes."""
    connection, client = pair
    target = array.array("I", [0])
    client.sendall(b"\1\0\0\0")
    assert connection.recv_into(target) == 4
    assert target.tobytes() == b"\1\0\0\0"


# -- recv_exactly, recv_until


def test_recv_exactly_waits_for_all(pair: Pair) -> None:
    """A message that comes in pieces is returned whole."""
    connection, client = pair
    client.sendall(b"ab")
    later = threading.Timer(0.02, client.sendall, [b"cde"])
    later.start()
    assert connection.recv_exactly(4) == b"abcd"
    later.join()
    assert connection.recv() == b"e"


def test_recv_exactly_nothing(pair: Pair) -> None:
    """A message of no bytes is there without waiting."""
    assert pair[0].recv_exactly(0) == b""


def test_recv_exactly_takes_no_more_than_asked_from_the_kernel(pair: Pair) -> None:
    """What follows the message stays where a child or a helper can read it."""
    connection, client = pair
    client.sendall(b"abcdef")
    assert connection.recv_exactly(4) == b"abcd"
    assert os.read(connection.fileno(), 9) == b"ef"


def test_a_message_that_is_cut_short(pair: Pair) -> None:
    """IncompleteRead has what did arrive and says how much was expected."""
    connection, client = pair
    client.sendall(b"abc")
    client.shutdown(socket.SHUT_WR)
    with pytest.raises(IncompleteRead, match="ended after 3 bytes of a message of 5") as caught:
        connection.recv_exactly(5)
    assert caught.value.partial == b"abc"
    assert connection.at_end


def test_recv_exactly_a_negative_size(pair: Pair) -> None:
    """A negative size is refused, as the socket's own recv() does, and takes nothing."""
    connection, client = pair
    client.sendall(b"abc")
    assert connection.recv_exactly(1) == b"a"
    with pytest.raises(ValueError, match="negative"):
        connection.recv_exactly(-1)


def test_recv_until_includes_the_separator(pair: Pair) -> None:
    """The separator ends the message, and what follows stays."""
    connection, client = pair
    client.sendall(b"one\r\n\r\ntwo\r\n\r\nrest")
    assert connection.recv_until(b"\r\n\r\n") == b"one\r\n\r\n"
    assert connection.recv_until(b"\r\n\r\n") == b"two\r\n\r\n"
    assert connection.recv() == b"rest"


def test_a_separator_in_two_pieces(pair: Pair) -> None:
    """A separator is found where two arrivals meet."""
    connection, client = pair
    client.sendall(b"one\r")
    later = threading.Timer(0.02, client.sendall, [b"\ntwo"])
    later.start()
    assert connection.recv_until(b"\r\n") == b"one\r\n"
    later.join()


def test_recv_until_at_the_limit(pair: Pair) -> None:
    """A message of exactly the limit, separator included, is not too long."""
    connection, client = pair
    client.sendall(b"123\n1234\n")
    assert connection.recv_until(b"\n", 4) == b"123\n"
    with pytest.raises(MessageTooLong, match=r"no b'\\n' in the first 4 bytes"):
        connection.recv_until(b"\n", 4)


def test_recv_until_gives_up_without_a_separator(pair: Pair) -> None:
    """A peer that never ends its message is not collected for ever, and nothing is lost."""
    connection, client = pair
    client.sendall(b"12345678")
    with pytest.raises(MessageTooLong):
        connection.recv_until(b"\n", 8)
    assert connection.recv() == b"12345678"


def test_recv_until_the_peer_ends(pair: Pair) -> None:
    """IncompleteRead has the piece of a message that did arrive."""
    connection, client = pair
    client.sendall(b"half")
    client.shutdown(socket.SHUT_WR)
    with pytest.raises(IncompleteRead, match=r"4 bytes of a message up to b'\\n'") as caught:
        connection.recv_until(b"\n")
    assert caught.value.partial == b"half"


# -- rfile


def test_rfile_reads_lines(pair: Pair) -> None:
    """readline() returns a line with its end, the last without one, and then b""."""
    connection, client = pair
    rfile = Reader(connection)
    client.sendall(b"one\n\ntwo")
    client.shutdown(socket.SHUT_WR)
    assert [rfile.readline() for _ in range(4)] == [b"one\n", b"\n", b"two", b""]


@pytest.mark.parametrize(
    ("limit", "lines"),
    [
        (2, [b"ab", b"c\n", b"de"]),
        (4, [b"abc\n", b"def\n", b"g"]),
        (0, [b"", b"", b""]),
        (None, [b"abc\n", b"def\n", b"g"]),
        (-1, [b"abc\n", b"def\n", b"g"]),
    ],
)
def test_rfile_reads_lines_up_to_a_limit(limit: int | None, lines: list[bytes], pair: Pair) -> None:
    """A longer line comes in pieces."""
    connection, client = pair
    client.sendall(b"abc\ndef\ng")
    client.shutdown(socket.SHUT_WR)
    rfile = Reader(connection)
    assert [rfile.readline(limit) for _ in range(3)] == lines


def test_rfile_is_iterated_by_lines(pair: Pair) -> None:
    """A loop over rfile gets each line and ends with the input."""
    connection, client = pair
    client.sendall(b"one\ntwo\nthree")
    client.shutdown(socket.SHUT_WR)
    assert list(Reader(connection)) == [b"one\n", b"two\n", b"three"]


@pytest.mark.parametrize(("hint", "count"), [(-1, 3), (0, 3), (1, 1), (4, 1), (5, 2)])
def test_rfile_readlines(hint: int, count: int, pair: Pair) -> None:
    """readlines() stops after the line with which the hint is reached."""
    connection, client = pair
    client.sendall(b"one\ntwo\nsix\n")
    client.shutdown(socket.SHUT_WR)
    assert len(Reader(connection).readlines(hint)) == count


def test_rfile_read(pair: Pair) -> None:
    """read(n) waits for n bytes or the end, read() for the end."""
    connection, client = pair
    rfile = Reader(connection)
    client.sendall(b"abcdefgh")
    client.shutdown(socket.SHUT_WR)
    assert [rfile.read(0), rfile.read(2), rfile.read(None), rfile.read()] == [
        b"",
        b"ab",
        b"cdefgh",
        b"",
    ]


def test_rfile_reads_more_than_one_arrival(pair: Pair) -> None:
    """What is larger than a single receive comes back whole."""
    connection, client = pair
    data = os.urandom(3 * RECEIVE_SIZE + 1)
    sender = threading.Thread(target=client.sendall, args=[data])
    sender.start()
    assert Reader(connection).read(len(data)) == data
    sender.join()


def test_rfile_read1_returns_what_there_is(pair: Pair) -> None:
    """read1() waits only if there is nothing."""
    connection, client = pair
    rfile = Reader(connection)
    client.sendall(b"abcdef")
    assert [rfile.read(1), rfile.read1(2), rfile.read1()] == [b"a", b"bc", b"def"]


def test_rfile_peek_takes_nothing(pair: Pair) -> None:
    """peek() shows what the next read returns."""
    connection, client = pair
    rfile = Reader(connection)
    client.sendall(b"abc")
    assert [rfile.peek(), rfile.peek(1), rfile.read(3)] == [b"abc", b"abc", b"abc"]
    client.shutdown(socket.SHUT_WR)
    assert rfile.peek() == b""


def test_rfile_readinto(pair: Pair) -> None:
    """readinto() fills the buffer or meets the end, readinto1() takes what there is."""
    connection, client = pair
    rfile = Reader(connection)
    client.sendall(b"abcdefg")
    target = bytearray(3)
    assert (rfile.readinto(target), bytes(target)) == (3, b"abc")
    assert (rfile.readinto1(target), bytes(target)) == (3, b"def")
    client.shutdown(socket.SHUT_WR)
    assert (rfile.readinto(target), bytes(target)) == (1, b"gef")


def test_rfile_is_a_binary_file(pair: Pair) -> None:
    """Whoever takes a file can be given rfile and wfile."""
    connection, client = pair
    rfile, wfile = Reader(connection), Writer(connection)
    assert (rfile.readable(), rfile.writable(), rfile.seekable()) == (True, False, False)
    assert (wfile.readable(), wfile.writable(), wfile.seekable()) == (False, True, False)
    assert rfile.fileno() == wfile.fileno() == connection.fileno()
    client.sendall(b"\xc3\xa9\n")
    assert io.TextIOWrapper(rfile, encoding="utf-8").readline() == "é\n"  # type: ignore[type-var]


def test_closing_the_files_leaves_the_connection(pair: Pair) -> None:
    """The files are ways to use the connection, which somebody else closes."""
    connection, client = pair
    wfile = Writer(connection)
    wfile.write(b"last")
    wfile.close()
    Reader(connection).close()
    assert client.recv(9) == b"last"
    client.sendall(b"still there")
    assert connection.recv() == b"still there"


# -- writing


def test_wfile_keeps_what_is_small(pair: Pair) -> None:
    """Nothing leaves before flush(), and then everything in one piece."""
    connection, client = pair
    wfile = Writer(connection)
    assert wfile.write(b"one ") == 4
    wfile.writelines([b"two ", b"three"])
    assert is_silent(client)
    wfile.flush()
    assert client.recv(99) == b"one two three"


def test_wfile_keeps_8_kib_and_no_more(pair: Pair) -> None:
    """A full buffer waits, the byte that does not fit any more sends it, in order."""
    connection, client = pair
    wfile = Writer(connection)
    wfile.write(b"a" * WRITE_SIZE)
    assert is_silent(client)
    wfile.write(b"b")
    connection.shutdown(socket.SHUT_WR)
    assert read_all(client) == b"a" * WRITE_SIZE + b"b"


def test_wfile_counts_bytes(pair: Pair) -> None:
    """A buffer of wider items is written whole and counted in bytes."""
    connection, client = pair
    assert Writer(connection).write(array.array("I", [1, 2])) == 8
    connection.flush()
    assert len(client.recv(99)) == 8


@pytest.mark.parametrize(
    "read",
    [
        lambda connection: connection.recv(),
        lambda connection: connection.recv_into(bytearray(1)),
        lambda connection: connection.recv_exactly(1),
        lambda connection: connection.recv_until(b"\n"),
        lambda connection: Reader(connection).readline(),
        lambda connection: Reader(connection).read(1),
        lambda connection: Reader(connection).peek(),
        lambda connection: connection.makefile("rb").readline(),
    ],
    ids=["recv", "recv_into", "exactly", "until", "readline", "read", "peek", "makefile"],
)
def test_a_read_that_waits_sends_what_was_written(
    read: Callable[[Connection], object], pair: Pair
) -> None:
    """The peer may be waiting for that before it says more."""
    connection, client = pair
    connection.write(b"question?")

    def answer() -> None:
        assert client.recv(99) == b"question?"
        client.sendall(b"\n")

    peer = threading.Thread(target=answer)
    peer.start()
    assert read(connection)
    peer.join()


def test_a_read_that_does_not_wait_sends_nothing(pair: Pair) -> None:
    """Answers to many requests that came together leave together."""
    connection, client = pair
    client.sendall(b"one\ntwo\n")
    connection.recv_until(b"\n")
    connection.write(b"answer")
    connection.recv_until(b"\n")
    assert is_silent(client)


@pytest.mark.parametrize("verb", ["send_all", "sendall", "send_last"])
def test_what_was_written_before_leaves_before(verb: str, pair: Pair) -> None:
    """Sending at once does not overtake what wfile still holds."""
    connection, client = pair
    connection.write(b"first ")
    getattr(connection, verb)(b"second")
    connection.shutdown(socket.SHUT_WR)
    assert read_all(client) == b"first second"


@pytest.mark.parametrize("send", ["send_last", "flush_last"])
def test_the_last_bytes_arrive_with_the_end(send: str, listener: Listener) -> None:
    """What is sent as the last waits for the end of the connection, and then arrives."""
    with socket.create_connection(listener.socket.getsockname(), 5) as client:
        connection = accept(listener)
        if send == "send_last":
            connection.send_last(b"bye")
        else:
            connection.write(b"bye")
            connection.flush_last()
        connection.close()
        assert read_all(client) == b"bye"


def test_a_failed_flush_is_not_tried_again(pair: Pair) -> None:
    """What could not be sent to a peer that is gone is dropped."""
    connection, client = pair
    client.close()
    connection.write(b"hello?")
    with pytest.raises(BrokenPipeError):
        connection.flush()
    connection.flush()


def test_shutdown_write_sends_what_was_written_and_the_end(pair: Pair) -> None:
    """The peer gets everything and the end, and can still be heard."""
    connection, client = pair
    connection.write(b"done")
    connection.shutdown_write()
    assert read_all(client) == b"done"
    client.sendall(b"thanks")
    assert connection.recv() == b"thanks"


def test_close_drops_what_was_not_flushed(pair: Pair) -> None:
    """close() never blocks: only run_handler sends what is left."""
    connection, client = pair
    connection.write(b"lost")
    connection.close()
    assert client.recv(9) == b""
    connection.close()


# -- send_file


@pytest.mark.parametrize("timeout", [None, 5.0], ids=["blocking", "timeout"])
@pytest.mark.parametrize(
    ("offset", "count", "sent"),
    [
        (0, None, slice(None)),
        (3, None, slice(3, None)),
        (0, 4, slice(4)),
        (3, 4, slice(3, 7)),
        (3, 0, slice(0)),
        (8, 9, slice(8, None)),
        (99, None, slice(0)),
    ],
)
def test_send_file(
    offset: int, count: int | None, sent: slice, timeout: float | None, tmp_path: Path, pair: Pair
) -> None:
    """A file's bytes go out from offset, so many or to its end, after what was written."""
    connection, client = pair
    (tmp_path / "file").write_bytes(b"0123456789")
    connection.settimeout(timeout)
    connection.write(b"head:")
    with open(tmp_path / "file", "rb") as file:
        size = connection.send_file(file, offset, count)
    connection.shutdown_write()
    assert read_all(client) == b"head:" + b"0123456789"[sent]
    assert size == len(b"0123456789"[sent])


@pytest.mark.parametrize("timeout", [None, 5.0], ids=["blocking", "timeout"])
def test_send_a_file_larger_than_any_buffer(
    timeout: float | None, tmp_path: Path, pair: Pair
) -> None:
    """A file that the kernel takes in pieces arrives whole."""
    connection, client = pair
    data = os.urandom(1 << 20)
    (tmp_path / "file").write_bytes(data)
    connection.settimeout(timeout)
    received: list[bytes] = []
    peer = threading.Thread(target=lambda: received.append(read_all(client)))
    peer.start()
    with open(tmp_path / "file", "rb") as file:
        assert connection.send_file(file) == len(data)
    connection.shutdown_write()
    peer.join()
    assert received == [data]


# -- makefile


def test_makefile_shares_the_buffer(pair: Pair) -> None:
    """A file object begins with what another read left over."""
    connection, client = pair
    client.sendall(b"one\ntwo\n")
    connection.recv_until(b"\n")
    assert connection.makefile("rb").readline() == b"two\n"


@pytest.mark.parametrize("mode", ["r", "rb", "w", "wb", "rw", "rwb"])
def test_makefile_in_every_mode(mode: str, pair: Pair) -> None:
    """Modes mean what they mean to socket.makefile, text without a b."""
    connection, client = pair
    text: str | bytes = b"echo\n" if "b" in mode else "echo\n"
    client.sendall(b"echo\n")
    with connection.makefile(mode, encoding=None if "b" in mode else "ascii") as file:
        if "r" in mode:
            assert file.readline() == text
        if "w" in mode:
            file.write(text)
            file.flush()
            assert client.recv(9) == b"echo\n"
        assert (file.readable(), file.writable()) == ("r" in mode, "w" in mode)
    assert connection.fileno() >= 0


def test_makefile_unbuffered(pair: Pair) -> None:
    """Without a buffer each write is sent at once."""
    connection, client = pair
    file = connection.makefile("wb", 0)
    assert file.write(b"now") == 3
    assert client.recv(9) == b"now"
    assert file.fileno() == connection.fileno()


@pytest.mark.parametrize(
    ("mode", "buffering", "problem"),
    [("a", None, "invalid mode 'a'"), ("", None, "invalid mode"), ("r", 0, "must be binary")],
)
def test_makefile_refuses(mode: str, buffering: int | None, problem: str, pair: Pair) -> None:
    """What socket.makefile refuses is refused here."""
    with pytest.raises(ValueError, match=problem):
        pair[0].makefile(mode, buffering)


# -- the connection as a socket


def test_the_borrowed_socket_is_on_the_same_descriptor(pair: Pair) -> None:
    """`.socket` is a true socket of the same connection, and always the same one."""
    connection, client = pair
    borrowed = connection.socket
    assert isinstance(borrowed, socket.socket)
    assert borrowed is connection.socket
    assert borrowed.fileno() == connection.fileno()
    assert borrowed.family == socket.AF_UNIX
    borrowed.sendall(b"through it")
    assert client.recv(99) == b"through it"


def test_closing_the_borrowed_socket_closes_the_connection(pair: Pair) -> None:
    """Either end of the loan ends both, once."""
    connection, client = pair
    with connection.socket as borrowed:
        pass
    assert (borrowed.fileno(), connection.fileno()) == (-1, -1)
    assert client.recv(1) == b""


def test_closing_the_connection_ends_the_loan(pair: Pair) -> None:
    """The borrowed socket never touches a descriptor that somebody else has got meanwhile."""
    connection, _ = pair
    borrowed, descriptor = connection.socket, connection.fileno()
    connection.close()
    assert borrowed.fileno() == -1
    assert is_closed(descriptor)
    borrowed.close()


def test_a_file_of_the_borrowed_socket_keeps_it_open(pair: Pair) -> None:
    """As with any socket, its file outlives its close()."""
    connection, client = pair
    file = connection.socket.makefile("wb")
    connection.socket.close()
    file.write(b"late")
    file.close()
    assert client.recv(9) == b"late"
    assert connection.fileno() == -1


def test_the_borrowed_socket_sets_the_timeout_of_both(pair: Pair) -> None:
    """A timeout that is set through the loan holds for the connection too."""
    connection, _ = pair
    connection.socket.settimeout(0.01)
    assert connection.gettimeout() == connection.socket.gettimeout() == 0.01
    with pytest.raises(TimeoutError):
        connection.recv()
    connection.socket.setblocking(True)
    assert connection.gettimeout() is None
    connection.socket.setblocking(False)
    assert connection.gettimeout() == 0.0


@pytest.mark.parametrize("when", ["before", "after"])
def test_the_connection_sets_the_timeout_of_both(when: str, pair: Pair) -> None:
    """A timeout set on the connection, before the loan or after, holds for the loan too."""
    connection, _ = pair
    if when == "after":
        assert connection.socket.gettimeout() is None
    connection.settimeout(0.01)
    assert connection.socket.gettimeout() == 0.01
    with pytest.raises(TimeoutError):
        connection.socket.recv(1)


def test_a_timeout_ends_a_read(pair: Pair) -> None:
    """A read that takes too long raises TimeoutError, and what did arrive is kept."""
    connection, client = pair
    connection.settimeout(0.01)
    client.sendall(b"half")
    with pytest.raises(TimeoutError):
        connection.recv_until(b"\n")
    client.sendall(b" whole\n")
    assert connection.recv_until(b"\n") == b"half whole\n"


# -- idle, and interrupted


def test_idle_sends_what_was_written(pair: Pair) -> None:
    """Nothing of the last answer is held back while the next message is waited for."""
    connection, client = pair
    connection.write(b"answer")
    with connection.idle():
        assert connection.is_idle
        assert client.recv(9) == b"answer"
    assert not connection.is_idle


def test_idle_ends_also_by_an_exception(pair: Pair) -> None:
    """An exception passes through the block, which is over with it."""
    connection, _ = pair
    with pytest.raises(ZeroDivisionError), connection.idle():
        raise ZeroDivisionError
    assert not connection.is_idle


def test_end_if_idle_leaves_a_busy_connection(pair: Pair) -> None:
    """Who is in the middle of a message is not disturbed."""
    connection, client = pair
    connection.end_if_idle()
    client.sendall(b"rest")
    assert connection.recv() == b"rest"


def test_end_if_idle_ends_the_input_only(pair: Pair) -> None:
    """An idle connection reads b"", and can still say goodbye."""
    connection, client = pair
    with connection.idle():
        connection.end_if_idle()
        assert connection.recv() == b""
    connection.send_all(b"bye")
    assert client.recv(9) == b"bye"


def test_idle_while_the_server_stops(pair: Pair) -> None:
    """Whoever becomes idle after the stop reads b"" at once."""
    connection, _ = pair
    connection.listener.server.stopping = True  # type: ignore[misc]
    with connection.idle():
        assert connection.recv() == b""


def in_recv(connection: Connection, *, idle: bool) -> tuple[threading.Thread, list[bytes]]:
    """Return a thread that is about to wait in recv(), and what it received."""
    received: list[bytes] = []
    begun = threading.Event()

    def receive() -> None:
        if idle:
            with connection.idle():
                begun.set()
                received.append(connection.recv())
        else:
            begun.set()
            received.append(connection.recv())

    thread = threading.Thread(target=receive)
    thread.start()
    assert begun.wait(5)
    return thread, received


def test_end_if_idle_wakes_a_recv_in_another_thread(pair: Pair) -> None:
    """A connection that waits for its next message ends from any thread."""
    thread, received = in_recv(pair[0], idle=True)
    pair[0].end_if_idle()
    thread.join(5)
    assert received == [b""]


def test_interrupt_wakes_a_recv_in_another_thread(pair: Pair) -> None:
    """A connection ends from any thread, whatever it waits for."""
    thread, received = in_recv(pair[0], idle=False)
    pair[0].interrupt()
    thread.join(5)
    assert received == [b""]


def test_interrupt_ends_writing_too(pair: Pair) -> None:
    """What is sent afterwards fails as if the peer were gone."""
    pair[0].interrupt()
    with pytest.raises(BrokenPipeError):
        pair[0].send_all(b"x")


def test_a_closed_connection_can_be_interrupted(pair: Pair) -> None:
    """It may be over by the time somebody ends it."""
    connection, _ = pair
    connection.is_idle = True
    connection.close()
    connection.interrupt()
    connection.end_if_idle()


# -- who is at the two ends


def accept(listener: Listener) -> Connection:
    """Return the connection that is in the queue."""
    connection = listener.accept()
    assert connection is not None
    return connection


def test_the_two_ends_of_a_tcp_connection(listener: Listener) -> None:
    """`peer` and `local` are the addresses as the client has them the other way round."""
    client = socket.create_connection(listener.socket.getsockname(), 5)
    with client, closing(accept(listener)) as connection:
        assert connection.peer == client.getsockname()
        assert connection.local == client.getpeername()


@pytest.mark.parametrize(
    ("address", "plain"),
    [
        (("::ffff:127.0.0.1", 80, 0, 0), ("127.0.0.1", 80)),
        (("::1", 80, 0, 0), ("::1", 80, 0, 0)),
        (("127.0.0.1", 80), ("127.0.0.1", 80)),
        ("", ""),
        ("/abc", "/abc"),
        ("::ffff:1", "::ffff:1"),
    ],
)
def test_plain_ipv4(address: tuple[object, ...] | str, plain: object) -> None:
    """Only an IPv4 peer on a dual-stack socket is shown as another address than its own."""
    assert plain_ipv4(address) == plain


def test_the_peer_has_an_abstract_name() -> None:
    """A Unix client may have bound itself to a name of any length (unix(7))."""
    name: Any = b"\0abc"
    assert plain_ipv4(name) == name


def test_the_loan_can_be_duplicated(pair: Pair) -> None:
    """dup() gives a socket of its own, and the connection goes on."""
    connection, client = pair
    with connection.socket.dup() as twin:
        twin.sendall(b"a")
    assert client.recv(9) == b"a"
    connection.send_all(b"b")
    assert client.recv(9) == b"b"


def test_the_loan_can_be_given_away(pair: Pair) -> None:
    """detach(), which TLS wrappers call, takes the descriptor from the connection too."""
    connection, client = pair
    with socket.socket(fileno=connection.socket.detach()) as taken:
        assert connection.fileno() == -1
        taken.sendall(b"still here")
        assert client.recv(20) == b"still here"


def test_a_descriptor_closed_behind_our_back_is_no_error(pair: Pair) -> None:
    """A handler that closes the descriptor itself ends its connection and nothing else."""
    connection, _ = pair
    os.close(connection.fileno())
    close_quietly(connection)
    assert connection.fileno() == -1


def test_idle_with_a_message_in_the_buffer(pair: Pair) -> None:
    """Where the next message is there already, nobody waits, and nothing is sent for that."""
    connection, client = pair
    client.sendall(b"one\ntwo\n")
    assert connection.recv_until(b"\n") == b"one\n"
    connection.write(b"kept")
    with connection.idle():
        assert not connection.is_idle
        assert connection.recv_until(b"\n") == b"two\n"
    client.setblocking(False)
    with pytest.raises(BlockingIOError):
        client.recv(9)


@pytest.mark.parametrize("seconds", [-1.0, float("nan")])
def test_extending_by_no_length_of_time(pair: Pair, seconds: float) -> None:
    """What is no number of seconds is refused, and does not look like an extension."""
    connection, _ = pair
    with pytest.raises(ValueError, match="number of seconds"):
        connection.extend_timeout(seconds)
