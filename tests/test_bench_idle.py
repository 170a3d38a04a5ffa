"""Connections are held idle beside the load, each proven to be served."""

import resource
import socket
from collections.abc import Iterator

import pytest

from forkserve.bench import idle
from forkserve.bench.idle import holding, raise_limit
from tests.support.clients import read_line
from tests.support.scripted import answer_all, listen, name_of, serving, udp
from tests.support.waiting import becomes


@pytest.fixture(autouse=True)
def limit() -> Iterator[None]:
    """Give back the limit of descriptors that a test has raised."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_connections_are_held_while_the_block_runs() -> None:
    """As many connections as were asked for stand in the block, and none after it."""
    with serving(answer_all, at_once=40) as server:
        with holding(server.address, 30):
            becomes(30, lambda: server.at_once)
        becomes(0, lambda: server.at_once)
    assert server.connections == 30


def test_each_held_connection_was_served() -> None:
    """With a question and its answer each connection has been asked when the block begins."""
    with serving(answer_all, at_once=20) as server, holding(server.address, 20, b"a\n", b"pong\n"):
        assert server.at_once == 20


def test_more_than_one_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many connections are made in batches, the last one smaller."""
    monkeypatch.setattr(idle, "AT_ONCE", 4)
    with serving(answer_all, at_once=20) as server, holding(server.address, 10, b"a\n", b"pong\n"):
        assert server.at_once == 10


@pytest.mark.parametrize("answer", [b"", b"po", b"gong\n"])
def test_wrong_answer_is_an_error(answer: bytes) -> None:
    """A connection that is not answered as it should be is not held silently."""

    def act(sock: socket.socket) -> None:
        read_line(sock)
        sock.sendall(answer)

    with serving(act) as server:
        held = holding(server.address, 3, b"a\n", b"pong\n")
        with pytest.raises(ConnectionError, match="got no answer"):
            held.__enter__()
        becomes(0, lambda: server.at_once)


def test_server_without_answer_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A held connection that nobody serves is found in time."""
    monkeypatch.setattr(idle, "TIMEOUT", 0.2)
    with listen() as listener, pytest.raises(OSError, match="timed out"):
        holding(name_of(listener), 3, b"a\n", b"pong\n").__enter__()


def test_nobody_listens_is_an_error() -> None:
    """Where nobody listens nothing is held."""
    with listen() as listener:
        address = name_of(listener)
    with pytest.raises(ConnectionRefusedError):
        holding(address, 3).__enter__()


def test_none_to_hold() -> None:
    """To hold none takes no server."""
    with udp() as sock, holding(name_of(sock), 0):
        pass


def test_limit_is_raised_only_as_far_as_needed() -> None:
    """The limit of descriptors is raised if it is too low, and left alone if it is not."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (500, hard))
    raise_limit(400)
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (500, hard)
    raise_limit(600)
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (600, hard)


def test_limit_that_cannot_be_raised_is_told_of() -> None:
    """More descriptors than the kernel gives anybody are refused in words."""
    with pytest.raises(OSError, match="4000000000 descriptors are needed"):
        raise_limit(4_000_000_000)
