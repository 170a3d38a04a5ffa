"""What a leader and its supervisor tell each other, and how each learns of the other's end."""

import os
import select
import signal
import socket
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forkserve.process.channel import Channel, Message, open_channel
from forkserve.process.fork import fork
from tests.support import processes

Ends = tuple[Channel, Channel]


@pytest.fixture
def ends() -> Iterator[Ends]:
    """Return the supervisor's end and the leader's, both closed in the end."""
    ours, theirs = open_channel()
    yield ours, theirs
    ours.close()
    theirs.close()


def is_readable(channel: Channel) -> bool:
    """Tell whether who waits for this end is woken."""
    return bool(select.select([channel], [], [], 0)[0])


def test_a_word(ends: Ends) -> None:
    """A word alone is a message; it wakes the other side, once."""
    ours, theirs = ends
    assert not is_readable(ours)
    theirs.send("ready")
    assert is_readable(ours)
    assert ours.receive() == Message("ready", "", None)
    assert not is_readable(ours)


def test_nothing_yet(ends: Ends) -> None:
    """Who asks without having been woken is not held up."""
    ours, _ = ends
    assert ours.receive() is None


def test_messages_stay_apart_and_in_order(ends: Ends) -> None:
    """Several that were sent at once are received one by one."""
    ours, theirs = ends
    sent = [Message("home", "tcp://127.0.0.1:80"), Message("loaded"), Message("ready")]
    for message in sent:
        theirs.send(message.kind, message.text)
    assert [ours.receive() for _ in sent] == sent
    assert ours.receive() is None


def test_both_ways(ends: Ends) -> None:
    """Either end may speak."""
    ours, theirs = ends
    ours.send("hello", "there")
    assert theirs.receive() == Message("hello", "there")


@given(st.text(max_size=1000))
@settings(derandomize=True, deadline=None)
def test_any_text(text: str) -> None:
    """What a user's exception says arrives as it is, but for what is no text at all."""
    ours, theirs = open_channel()
    theirs.send("failed", text)
    received = ours.receive()
    ours.close()
    theirs.close()
    readable = text.encode("utf-8", "replace").decode()
    assert received == Message("failed", readable)


@pytest.mark.parametrize("text", ["x" * 10**6, "\u20ac" * 10**5, "\n" * 40_000])
def test_a_text_that_is_too_long(text: str, ends: Ends) -> None:
    """Its beginning arrives, and nothing of it is taken for another message."""
    ours, theirs = ends
    theirs.send("failed", text)
    received = ours.receive()
    assert received is not None
    assert received.kind == "failed"
    assert len(received.text) > 10_000
    assert text.startswith(received.text.rstrip("\ufffd"))
    assert ours.receive() is None


# -- sockets


def test_a_socket(ends: Ends) -> None:
    """With a message may come a socket, which is the receiver's to close."""
    ours, theirs = ends
    with socket.create_server(("127.0.0.1", 0)) as listener:
        theirs.send("home", "tcp://127.0.0.1:0", listener.fileno())
        name = listener.getsockname()
    received = ours.receive()
    assert received is not None
    assert received.descriptor is not None
    with socket.socket(fileno=received.descriptor) as got:
        assert got.getsockname() == name
        assert got.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        assert not os.get_inheritable(got.fileno())


def test_descriptor_zero(ends: Ends) -> None:
    """Zero is a descriptor like any other."""
    ours, theirs = ends
    reader, writer = os.pipe()
    before = os.dup(0)
    try:
        os.dup2(reader, 0)
        theirs.send("home", "stdin", 0)
    finally:
        os.dup2(before, 0)
        os.close(before)
    received = ours.receive()
    assert received is not None
    assert received.descriptor is not None
    os.write(writer, b"through")
    assert os.read(received.descriptor, 99) == b"through"
    for descriptor in (reader, writer, received.descriptor):
        os.close(descriptor)


def test_messages_with_and_without_a_socket(ends: Ends) -> None:
    """Each has its own."""
    ours, theirs = ends
    reader, writer = os.pipe()
    theirs.send("loaded")
    theirs.send("home", "a", reader)
    theirs.send("ready")
    received = [ours.receive() for _ in range(3)]
    assert [one is not None and one.descriptor is not None for one in received] == [
        False,
        True,
        False,
    ]
    assert received[1] is not None
    for descriptor in (reader, writer, received[1].descriptor):
        assert descriptor is not None
        os.close(descriptor)


# -- the end of the other


def test_the_other_end_is_closed(ends: Ends) -> None:
    """Who waits is woken, and told so."""
    ours, theirs = ends
    theirs.close()
    assert is_readable(ours)
    with pytest.raises(EOFError):
        ours.receive()


def test_what_was_said_before_the_end_is_heard(ends: Ends) -> None:
    """Last words come first."""
    ours, theirs = ends
    theirs.send("failed", "4 no such module")
    theirs.close()
    assert ours.receive() == Message("failed", "4 no such module")
    with pytest.raises(EOFError):
        ours.receive()


def test_an_end_with_words_unread(ends: Ends) -> None:
    """Who ends without having listened is as gone as anybody."""
    ours, theirs = ends
    ours.send("hello")
    theirs.close()
    with pytest.raises(EOFError):
        ours.receive()


def test_speaking_to_nobody(ends: Ends) -> None:
    """Whoever is left alone may go on speaking, and gets no signal for it."""
    ours, theirs = ends
    ours.close()
    theirs.send("ready")
    theirs.send("ready")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_leader_that_dies(number: signal.Signals) -> None:
    """Its end is seen however it came about, and so is what it said before."""
    ours, theirs = open_channel()

    def lead() -> int:
        theirs.send("loaded")
        signal.pause()
        return 0

    pid = fork(lead, ours.close)
    theirs.close()
    assert select.select([ours], [], [], 10)[0]
    assert ours.receive() == Message("loaded")
    assert ours.receive() is None
    os.kill(pid, number)
    assert select.select([ours], [], [], 10)[0]
    with pytest.raises(EOFError):
        ours.receive()
    ours.close()
    assert processes.wait_until_gone(pid)
    os.waitpid(pid, 0)


def test_ends_are_not_passed_to_other_programs(ends: Ends) -> None:
    """What a handler starts does not keep the channel open."""
    assert not any(os.get_inheritable(end.fileno()) for end in ends)
