"""Every syslog message becomes one line, whole and byte for byte, whichever way it came."""

import contextlib
import logging
import re
import socket
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from logging.handlers import SysLogHandler
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

import forkserve
from examples import syslog_sink
from tests.support.clients import at_once, connect, path_of, port_of
from tests.support.requirements import requires
from tests.support.server import TCP, Server, running
from tests.support.waiting import becomes

MODES = ("iterative", "thread", "process", "prefork")
SINK = "examples/syslog_sink.py:sink"
UDP = "udp://127.0.0.1:0"
TEXT = "grüße, 世界 🙂 \\n 100 %"

# What is sent, and the line without its end.
LINES = [
    (b"<34>Oct 11 22:14:15 box su[7]: no", b"auth.crit Oct 11 22:14:15 box su[7]: no"),
    (b"<0>x", b"kern.emerg x"),
    (b"<191>x", b"local7.debug x"),
    (b"<192>x", b"user.notice <192>x"),
    (b"<>x", b"user.notice <>x"),
    (b"no priority", b"user.notice no priority"),
    (TEXT.encode(), b"user.notice " + TEXT.encode()),
    (b"<13>not \xff UTF-8", b"user.notice not \xff UTF-8"),
    (b"<13>tab\there\x1b[31m", b"user.notice tab\\x09here\\x1b[31m"),
    (b"<165>1 2003-10-11T22:14:15.003Z box app 87 ID47 - it", b"local4.notice"
     b" 2003-10-11T22:14:15.003Z box app[87]: it"),
    (b'<13>1 - box app - - [a b="c \\"d\\" ]"][e] \xef\xbb\xbfit', b"user.notice - box app[-]: it"),
    (b"<13>1 - box app - - -", b"user.notice - box app[-]: "),
    (b'<13>1 - box app - - [a b="c] it', b'user.notice 1 - box app - - [a b="c] it'),
]  # fmt: skip
BLOCKS = [
    *LINES,
    (b"<14>one\ntwo", b"user.info one\\x0atwo"),
    (b"<14>nul\0inside", b"user.info nul\\x00inside"),
    (b"<14>end\r\n\0", b"user.info end"),
    (b"<14>" + b"x" * 60_000, b"user.info " + b"x" * 60_000),
]
DATAGRAMS = [*BLOCKS, (b"", b"user.notice ")]


@contextlib.contextmanager
def sinking(mode: str, folder: Path) -> Iterator[Server]:
    """Serve UDP, TCP and a Unix socket until the block ends; the lines are appended to a file."""
    addresses = [UDP, TCP, f"unixgram://{folder}/log.sock"]
    into_file = ["sh", "-c", f'exec "$0" "$@" >>{folder}/lines']
    with running(SINK, mode, address=addresses, under=into_file) as server:
        yield server


def lines_of(folder: Path) -> list[bytes]:
    """Return the lines that were written, without their ends."""
    written = (folder / "lines").read_bytes()
    assert written.endswith(b"\n")
    return written.removesuffix(b"\n").split(b"\n")


def sender(address: str) -> socket.socket:
    """Return a datagram socket whose peer this address is."""
    if address.startswith("unixgram"):
        client = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        client.connect(path_of(address))
    else:
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        client.connect(("127.0.0.1", port_of(address)))
    client.settimeout(10)
    return client


def counted(message: bytes) -> bytes:
    """Return a message with its length before it (RFC 6587, 3.4.1)."""
    return b"%d %s" % (len(message), message)


# -- a message each way


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("index", [0, 2], ids=["udp", "unixgram"])
def test_a_datagram_is_one_line(mode: str, index: int, tmp_path: Path) -> None:
    """Whatever is in a datagram, even nothing, is one line, also if a stop comes right after it."""
    with sinking(mode, tmp_path) as server, sender(server.addresses[index]) as client:
        for message, _ in DATAGRAMS:
            client.send(message)
    assert sorted(lines_of(tmp_path)) == sorted(line for _, line in DATAGRAMS)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\0", b"\n\0"], ids=["lf", "crlf", "nul", "both"])
def test_a_line_of_a_stream_is_one_line(mode: str, end: bytes, tmp_path: Path) -> None:
    """A newline or a NUL ends a message, and the last one needs none; their order is kept."""
    with sinking(mode, tmp_path) as server, connect(server.addresses[1]) as client:
        client.sendall(end.join(message for message, _ in LINES))
    assert lines_of(tmp_path) == [line for _, line in LINES]


@pytest.mark.parametrize("mode", MODES)
def test_a_counted_block_of_a_stream_is_one_line(mode: str, tmp_path: Path) -> None:
    """What comes with its length may hold newlines, and is one line, long or short."""
    with sinking(mode, tmp_path) as server, connect(server.addresses[1]) as client:
        client.sendall(b"".join(counted(message) for message, _ in BLOCKS))
        becomes(len(BLOCKS), lambda: (tmp_path / "lines").read_bytes().count(b"\n"))
    assert lines_of(tmp_path) == [line for _, line in BLOCKS]


@pytest.mark.parametrize("mode", MODES)
def test_a_quiet_sender_does_not_hold_up_a_stop(mode: str, tmp_path: Path) -> None:
    """A stop waits for nobody who stays connected and has said all, and nothing of it is lost."""
    with sinking(mode, tmp_path) as server, connect(server.addresses[1]) as client:
        client.sendall(b"<14>one\n<14>two\n")
        becomes(2, lambda: (tmp_path / "lines").read_bytes().count(b"\n"))
        assert server.stop(timeout=10) == 0
    assert lines_of(tmp_path) == [b"user.info one", b"user.info two"]


# -- many at once


@pytest.mark.parametrize("mode", MODES)
def test_as_many_lines_as_datagrams(mode: str, tmp_path: Path) -> None:
    """A hundred datagrams from each of two senders at once are two hundred lines."""
    with sinking(mode, tmp_path) as server:

        def send(index: int) -> None:
            with sender(server.addresses[2 * index]) as client:
                for number in range(100):
                    client.send(b"<14>%d from %d" % (number, index))

        at_once(2, send)
    wanted = [b"user.info %d from %d" % (number, one) for one in range(2) for number in range(100)]
    assert sorted(lines_of(tmp_path)) == sorted(wanted)


@pytest.mark.parametrize(
    "mode", [("iterative",), ("thread",), ("process",), ("prefork", "-w", "4")], ids=lambda m: m[0]
)
def test_no_line_comes_in_between_another(mode: tuple[str, ...]) -> None:
    """Long lines of four senders stay whole in a pipe, which keeps 4096 bytes together at most."""
    letters = [b"a", b"b", b"c", b"d"]
    with running(SINK, *mode) as server:

        def send(index: int) -> None:
            with connect(server.address) as client:
                client.sendall(counted(letters[index] * 50_000) * 10)

        at_once(4, send)
        becomes(40, lambda: server.stdout_so_far().count("\n"), timeout=20)
    whole = [f"user.notice {letter.decode() * 50_000}" for letter in letters for _ in range(10)]
    assert sorted(server.stdout_so_far().splitlines()) == whole


# -- clients that nobody here wrote


def log(*arguments: str) -> None:
    """Run logger; it must succeed."""
    subprocess.run(
        ["logger", "-p", "local3.warning", "-t", "tag", *arguments], timeout=20, check=True
    )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("style", ["--rfc5424", "--rfc3164"])
def test_logger_is_understood(mode: str, style: str, tmp_path: Path) -> None:
    """What logger sends is one line whichever way it came, a newline only where that can be."""
    requires("logger")
    block = f"one\n{TEXT}"
    with sinking(mode, tmp_path) as server:
        udp, tcp = (str(port_of(address)) for address in server.addresses[:2])
        log("-n", "127.0.0.1", "-P", udp, "--udp", style, "--", block)
        log("-n", "127.0.0.1", "-P", tcp, "--tcp", style, "--octet-count", "--", block)
        log("-n", "127.0.0.1", "-P", tcp, "--tcp", style, "--", TEXT)
        log("-u", path_of(server.addresses[2]), "--udp", style, "--", block)
    shown = re.compile(r"local3\.warning (.+?) tag(?:\[-\])?: (.+)")
    lines = [line.decode() for line in lines_of(tmp_path)]
    texts = [found[2] for line in lines if (found := shown.fullmatch(line))]
    assert sorted(texts) == sorted([TEXT] + 3 * [f"one\\x0a{TEXT}"]), lines


@pytest.mark.parametrize("mode", MODES)
def test_the_standard_library_is_understood(mode: str, tmp_path: Path) -> None:
    """What SysLogHandler sends is a line, with the NUL that is all it has to end one over TCP."""
    record = logging.LogRecord("name", logging.CRITICAL, "", 0, "%s", (TEXT,), None)
    with sinking(mode, tmp_path) as server:
        kinds = [socket.SOCK_DGRAM, socket.SOCK_STREAM]
        ports = map(port_of, server.addresses[:2])
        handlers = [
            *(
                SysLogHandler(("127.0.0.1", p), "mail", k)
                for p, k in zip(ports, kinds, strict=True)
            ),
            SysLogHandler(path_of(server.addresses[2]), "mail"),
        ]
        for handler in 2 * handlers:
            handler.emit(record)
        for handler in handlers:
            handler.close()
    assert lines_of(tmp_path) == 6 * [b"mail.crit " + TEXT.encode()]


# -- streams, cut anywhere


class Pieces:
    """A connection that brings a stream in these pieces."""

    def __init__(self, *pieces: bytes) -> None:
        self.left = list(pieces)
        self.waits = 0

    def idle(self) -> AbstractContextManager[None]:
        """Count the waits of which nothing would be lost."""
        self.waits += 1
        return nullcontext()

    def recv(self) -> bytes:
        """Return the next piece."""
        return self.left.pop(0) if self.left else b""


def messages(pieces: Pieces) -> list[bytes]:
    """Return what the example finds in them."""
    return list(syslog_sink.messages(cast(forkserve.Connection, pieces)))


@given(
    st.lists(
        st.one_of(
            st.binary(min_size=1, max_size=40).map(lambda block: (counted(block), block)),
            st.from_regex(rb"\A<[^\n\r\0]{0,40}\Z").map(lambda line: (line + b"\n", line)),
            st.from_regex(rb"\A<[^\n\r\0]{0,40}\Z").map(lambda line: (line + b"\0", line)),
        )
    ),
    st.integers(1, 7),
)
def test_where_a_stream_is_cut_does_not_matter(sent: list[tuple[bytes, bytes]], size: int) -> None:
    """The same messages come out of any mixture of framings, in pieces of any size."""
    stream = b"".join(framed for framed, _ in sent)
    pieces = (stream[at : at + size] for at in range(0, len(stream), size))
    assert messages(Pieces(*pieces)) == [message for _, message in sent]


def test_a_wait_inside_a_message_is_not_idle() -> None:
    """A stop may end the stream between two messages, a newline after a count being none."""
    pieces = Pieces(b"<1>a\n", b"3 <1", b">\n", b"<1>", b"b\n")
    assert messages(pieces) == [b"<1>a", b"<1>", b"<1>b"]
    assert pieces.waits == 4


def test_what_never_ends_is_cut() -> None:
    """A sender that sends no newline does not fill the memory."""
    endless = 5 * [b"x" * 65536]
    assert [len(message) for message in messages(Pieces(*endless))] == [3 * 65536, 2 * 65536]


def test_a_count_that_the_stream_does_not_keep_is_shown() -> None:
    """What is cut off by the end of the stream is a message as it is."""
    assert messages(Pieces(b"99 <14>cut")) == [b"99 <14>cut"]
