"""What a stock handler sets on its class holds in every mode, over TCP and over Unix sockets."""

import socket
from pathlib import Path

import pytest

from tests.support import clients
from tests.support.modes import MOSTLY_PLAIN, Mode
from tests.support.server import TCP, handler, running

every_mode = pytest.mark.parametrize("mode", MOSTLY_PLAIN)
every_transport = pytest.mark.parametrize("transport", ["tcp", "unix"])


def address_of(transport: str, folder: Path) -> str:
    """Return where to listen."""
    return TCP if transport == "tcp" else f"unix://{folder}/s"


@every_mode
@every_transport
def test_timeout(transport: str, mode: Mode, tmp_path: Path) -> None:
    """`timeout` ends a connection on which nothing comes, and no other; that is no error."""
    where = address_of(transport, tmp_path)
    with running(handler("stock_options.py:Impatient"), *mode.arguments, address=where) as server:
        with clients.connect(server.address) as silent:
            assert clients.ends(silent)
        assert clients.ask(server.address, b"line\n") == b"line\n"


@every_mode
@every_transport
def test_disable_nagle_algorithm(transport: str, mode: Mode, tmp_path: Path) -> None:
    """`disable_nagle_algorithm` sets TCP_NODELAY, and is passed over on a Unix socket."""
    where = address_of(transport, tmp_path)
    with running(handler("stock_options.py:Prompt"), *mode.arguments, address=where) as server:
        assert clients.ask(server.address, b"") == b"1\n"


@every_mode
@every_transport
def test_rbufsize(transport: str, mode: Mode, tmp_path: Path) -> None:
    """`rbufsize = 0` leaves what was not asked for in the socket."""
    where = address_of(transport, tmp_path)
    with running(handler("stock_options.py:Unbuffered"), *mode.arguments, address=where) as server:
        assert clients.ask(server.address, b"abc") == b"a,bc"


@every_mode
@every_transport
def test_wbufsize(transport: str, mode: Mode, tmp_path: Path) -> None:
    """`wbufsize` keeps what was written until it is enough, or the handler is done."""
    where = address_of(transport, tmp_path)
    with (
        running(handler("stock_options.py:Buffered"), *mode.arguments, address=where) as server,
        clients.connect(server.address) as client,
    ):
        client.settimeout(0.1)
        with pytest.raises(TimeoutError):
            client.recv(100)
        client.settimeout(10)
        client.shutdown(socket.SHUT_WR)
        assert clients.read_to_end(client) == b"kept and sent\n"
