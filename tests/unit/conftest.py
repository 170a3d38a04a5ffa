"""Connections and their clients, for the tests of every module."""

import socket
from collections.abc import Callable, Iterator

import pytest

from forkserve.connection import Connection
from tests.unit.fakes import make_connection

Pair = tuple[Connection, socket.socket]


@pytest.fixture
def make_pair() -> Iterator[Callable[[], Pair]]:
    """Return what makes a connection and its client, both closed in the end."""
    made: list[Pair] = []

    def make() -> Pair:
        ours, client = socket.socketpair()
        client.settimeout(5)
        made.append((make_connection(ours), client))
        return made[-1]

    yield make
    for connection, client in made:
        connection.close()
        client.close()


@pytest.fixture
def pair(make_pair: Callable[[], Pair]) -> Pair:
    """Return a connection and its client."""
    return make_pair()
