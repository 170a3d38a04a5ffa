"""What a connection takes over from its listener, and what it does not."""

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from forkserve.compat import StockConnection
from forkserve.connection import Connection
from forkserve.listener import Listener
from tests.unit.fakes import FakeServer, open_streams


@pytest.fixture(params=["tcp", "unix"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return where to listen, over each transport."""
    return "tcp://127.0.0.1:0" if request.param == "tcp" else f"unix://{tmp_path}/s"


@pytest.fixture(params=[Connection, StockConnection])
def kind(request: pytest.FixtureRequest) -> Any:
    """Return the type of connection that a handler gets, one of ours and a stock one."""
    return request.param


@pytest.fixture
def default_timeout() -> Iterator[float]:
    """Let new sockets have a time-out, as a user's module may."""
    socket.setdefaulttimeout(0.05)
    yield 0.05
    socket.setdefaulttimeout(None)


@pytest.fixture
def accepted(address: str, kind: Any) -> Iterator[tuple[Any, socket.socket, Listener]]:
    """Return an accepted connection, its client and its listener."""
    with ExitStack() as held:
        (listener,) = open_streams(address)
        held.callback(listener.close)
        listener.server = FakeServer()
        listener.connection_type = kind
        place = listener.socket.getsockname()
        client = held.enter_context(socket.socket(listener.socket.family))
        client.connect(place if isinstance(place, tuple) else listener.path)
        connection = listener.accept()
        assert connection is not None
        held.enter_context(closing(connection))
        yield connection, client, listener


Accepted = tuple[Any, socket.socket, Listener]


def test_a_connection_blocks_and_its_listener_does_not(accepted: Accepted) -> None:
    """For the kernel too a connection blocks, although its listener never does (F11)."""
    connection, _, listener = accepted
    assert os.get_blocking(connection.fileno())
    assert connection.gettimeout() is None
    assert not os.get_blocking(listener.fileno())


def test_a_default_timeout_holds_for_connections(
    default_timeout: float, accepted: Accepted
) -> None:
    """A default time-out of the user's own bounds each read, as after ``socket.accept()``."""
    connection, client, _ = accepted
    assert connection.gettimeout() == default_timeout
    with pytest.raises(TimeoutError):
        connection.recv(1)
    client.sendall(b"late")
    assert connection.recv(4) == b"late"


def test_a_default_timeout_does_not_hold_for_the_listener(
    default_timeout: float, accepted: Accepted
) -> None:
    """An empty queue is seen without waiting, whatever the user's default."""
    _, _, listener = accepted
    assert listener.socket.gettimeout() == 0
    assert listener.accept() is None


def test_a_connection_without_the_default_blocks_again(
    default_timeout: float, accepted: Accepted
) -> None:
    """A handler that takes the time-out off has a connection that blocks for the kernel too."""
    connection, _, _ = accepted
    connection.settimeout(None)
    assert os.get_blocking(connection.fileno())
