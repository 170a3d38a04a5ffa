"""The load of the endurance trials: it must see every way in which a connection can go wrong."""

import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.endurance.load import Load, Outcome
from tests.support.clients import read_to_end, reset
from tests.support.waiting import pause

Act = Callable[[socket.socket], object]


class _Server(socketserver.ThreadingTCPServer):
    block_on_close = True

    def shutdown_request(self, request: object) -> None:
        """Leave the closing to the act."""


@contextmanager
def served_by(act: Act) -> Iterator[str]:
    """Serve each connection with this."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with self.request:
                act(self.request)

    with _Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"tcp://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def echo(client: socket.socket) -> None:
    """Do it right."""
    client.sendall(read_to_end(client))


def cut(client: socket.socket) -> None:
    """Keep the last byte."""
    client.sendall(read_to_end(client)[:-1])


def mix_up(client: socket.socket) -> None:
    """Answer with what another one may have sent."""
    client.sendall(b"x" * len(read_to_end(client)))


def add(client: socket.socket) -> None:
    """Answer with more than was sent."""
    client.sendall(read_to_end(client) + b"x")


def reset_late(client: socket.socket) -> None:
    """Reset when everything has come, its end too."""
    read_to_end(client)
    reset(client)


def stay_mute(client: socket.socket) -> None:
    """Answer nothing for longer than the client waits."""
    read_to_end(client)
    pause(0.5)


@pytest.mark.parametrize(
    ("act", "outcome"),
    [
        (echo, Outcome.OK),
        (cut, Outcome.SHORT),
        (mix_up, Outcome.WRONG),
        (add, Outcome.WRONG),
        (reset_late, Outcome.RESET_AFTER),
        (stay_mute, Outcome.TIMED_OUT),
    ],
)
def test_outcome(act: Act, outcome: Outcome) -> None:
    """A load tells what the server did to its connections, and counts nothing else."""
    timeout = 0.2 if outcome is Outcome.TIMED_OUT else 10.0
    with served_by(act) as address, Load(address, clients=2, timeout=timeout) as load:
        load.wait_for(4, timeout=10)
        load.stop()
        assert load.counts()[outcome] == load.connections() >= 4
        assert load.failed() == (0 if outcome is Outcome.OK else load.connections())
        assert len(load.first_failures()) == min(load.failed(), 10)


def test_nobody_there() -> None:
    """A load tells that it is refused where nobody listens."""
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        with Load(f"tcp://127.0.0.1:{unheard.getsockname()[1]}", clients=1) as load:
            load.wait_for(3, timeout=10)
    assert load.counts()[Outcome.REFUSED] == load.connections()
    assert "refused: connect:" in load.describe_failures()


def test_path_that_is_not_there() -> None:
    """A load tells that it is refused where a Unix socket has no file."""
    with Load("unix:///nowhere/socket", clients=1) as load:
        load.wait_for(3, timeout=10)
    assert load.counts()[Outcome.REFUSED] == load.connections()
