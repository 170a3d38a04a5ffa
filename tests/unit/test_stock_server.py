"""Server objects of socketserver in this very process, and what becomes of them."""

import contextlib
import http.server
import os
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import forkserve
from forkserve.errors import ListenError, SettingsError, TargetError
from forkserve.stock_server import StockServer

HOME = ("127.0.0.1", 0)

both_modes = pytest.mark.parametrize("mode", ["iterative", "thread"])


class Reusing(socketserver.TCPServer):
    """Asks for its address again at once, as HTTPServer does."""

    allow_reuse_address = True


kinds_of_reuse = pytest.mark.parametrize(
    "kind",
    [
        Reusing,
        socketserver.TCPServer,
    ],
)


class Line(socketserver.StreamRequestHandler):
    """Send one line back, after the name that the server has."""

    def handle(self) -> None:
        name = getattr(self.server, "name", "").encode()
        self.wfile.write(name + self.rfile.readline())


Make = Callable[..., Any]


@pytest.fixture
def make() -> Iterator[Make]:
    """Return what makes a server object, closed in the end."""
    made: list[socketserver.TCPServer] = []

    def make(kind: Any = socketserver.TCPServer, place: Any = HOME, handler: Any = Line) -> Any:
        made.append(kind(place, handler))
        return made[-1]

    yield make
    for server in made:
        server.socket.close()


def serve(server: Any, *addresses: str, **options: Any) -> forkserve.Server:
    """Return what serves the object in this process."""
    return forkserve.Server(server, *addresses, in_process=True, **options)


def ask(address: str, line: bytes = b"hello\n") -> bytes:
    """Return the whole answer to a line."""
    scheme, _, place = address.partition("://")
    family = socket.AF_UNIX if scheme == "unix" else socket.AF_INET
    host, _, port = place.rpartition(":")
    with socket.socket(family) as client:
        client.settimeout(5)
        client.connect(place if scheme == "unix" else (host, int(port)))
        client.sendall(line)
        with client.makefile("rb") as answer:
            return answer.read()


@both_modes
@pytest.mark.parametrize(
    "kind",
    [socketserver.TCPServer, socketserver.ThreadingTCPServer, socketserver.ForkingTCPServer],
)
def test_a_block(mode: str, kind: type, make: Make) -> None:
    """In the block the object is served at its own address, and after it nobody listens there."""
    server = make(kind)
    with serve(server, mode=mode) as serving:
        port = server.socket.getsockname()[1]
        assert serving.addresses == [f"tcp://127.0.0.1:{port}"]
        assert ask(serving.addresses[0]) == b"hello\n"
    with pytest.raises(ConnectionRefusedError):
        ask(serving.addresses[0])


def test_nothing_happens_before(make: Make) -> None:
    """An object that is to be served, and is not yet, listens where and as it did."""
    server = make()
    before = dict(vars(server))
    serve(server)
    assert before.items() <= vars(server).items()
    assert type(server).__name__ == "TCPServer"
    assert isinstance(server, socketserver.TCPServer)


@kinds_of_reuse
@both_modes
def test_serving_twice(mode: str, kind: type, make: Make) -> None:
    """An object may be served again when it has been served, at the same address."""
    server = make(kind)
    seen = []
    for _ in range(2):
        with serve(server, mode=mode) as serving:
            assert ask(serving.addresses[0]) == b"hello\n"
            seen += serving.addresses
    assert seen[0] == seen[1]


@both_modes
def test_the_same_forkserve_server_twice(mode: str, make: Make) -> None:
    """A Server of an object may be started again, too."""
    serving = serve(make(Reusing), mode=mode)
    for _ in range(2):
        with serving:
            assert ask(serving.addresses[0]) == b"hello\n"


@both_modes
def test_serving_here_and_there(mode: str, make: Make, tmp_path: Path) -> None:
    """An object that was served at one address can be served at another."""
    server = make()
    for address in ("tcp://127.0.0.1:0", f"unix://{tmp_path}/s", "tcp://127.0.0.1:0"):
        with serve(server, address, mode=mode) as serving:
            assert ask(serving.addresses[0]) == b"hello\n"
    assert os.listdir(tmp_path) == []


def test_two_addresses(make: Make, tmp_path: Path) -> None:
    """At each address there is an object with the same attributes, and its own address."""
    server = make()
    server.name = "my "
    with serve(server, "tcp://127.0.0.1:0", f"unix://{tmp_path}/s") as serving:
        assert [ask(each) for each in serving.addresses] == [b"my hello\n"] * 2
        assert serving.addresses[0] == "tcp://{}:{}".format(*server.server_address)


def test_own_attributes_may_change_meanwhile(make: Make) -> None:
    """What the program does to its object the handlers see."""
    server = make()
    with serve(server) as serving:
        assert ask(serving.addresses[0]) == b"hello\n"
        server.name = "now "
        assert ask(serving.addresses[0]) == b"now hello\n"


@both_modes
def test_shutdown_from_the_program(mode: str, make: Make) -> None:
    """The object's own shutdown() asks for the end, and waits for nobody."""
    server = make()
    is_ready = threading.Event()
    serving = serve(server, mode=mode)
    thread = threading.Thread(target=serving.run, args=[is_ready.set])
    thread.start()
    assert is_ready.wait(5)
    assert ask(serving.addresses[0]) == b"hello\n"
    before, _, after = server.stopping, server.shutdown(), server.stopping
    assert (before, after) == (False, True)
    thread.join(5)
    assert not thread.is_alive()
    with pytest.raises(ConnectionRefusedError):
        ask(serving.addresses[0])


def test_shutdown_in_a_handler(make: Make) -> None:
    """A handler may call it, in the very thread that serves."""

    class Last(Line):
        def handle(self) -> None:
            super().handle()
            self.server.shutdown()

    serving = serve(make(handler=Last), mode="iterative")
    is_ready = threading.Event()
    thread = threading.Thread(target=serving.run, args=[is_ready.set])
    thread.start()
    assert is_ready.wait(5)
    assert ask(serving.addresses[0]) == b"hello\n"
    thread.join(5)
    assert not thread.is_alive()


def test_an_http_server_has_its_name_and_port(make: Make) -> None:
    """server_bind of the standard library's HTTP server runs for the address that is served."""
    server = make(http.server.HTTPServer, handler=http.server.BaseHTTPRequestHandler)
    with serve(server, "tcp://127.0.0.1:0") as serving:
        port = int(serving.addresses[0].rpartition(":")[2])
        assert (server.server_port, server.server_address) == (port, ("127.0.0.1", port))
        assert server.server_name == socket.getfqdn("127.0.0.1")


def test_an_http_server_on_a_path(make: Make, tmp_path: Path) -> None:
    """There it has a name too, and no port."""
    server = make(http.server.HTTPServer, handler=http.server.BaseHTTPRequestHandler)
    with serve(server, f"unix://{tmp_path}/s"):
        assert (server.server_name, server.server_port) == ("localhost", 0)
        assert server.server_address == f"{tmp_path}/s"


def test_a_handler_that_raises(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    """It ends its connection, and is logged as for every other handler."""
    calls: list[object] = []

    class FailsOnce(Line):
        def handle(self) -> None:
            calls.append(self)
            if len(calls) == 1:
                raise KeyError
            super().handle()

    with serve(make(handler=FailsOnce)) as serving:
        assert ask(serving.addresses[0], b"") == b""
        assert ask(serving.addresses[0]) == b"hello\n"
    assert "raised KeyError" in caplog.text


def test_no_descriptor_is_left(make: Make) -> None:
    """After a block, and after many connections, nothing is open that was not before."""
    before = os.listdir("/proc/self/fd")
    with serve(make()) as serving:
        for _ in range(20):
            assert ask(serving.addresses[0]) == b"hello\n"
    assert os.listdir("/proc/self/fd") == before


def test_an_address_in_use(make: Make) -> None:
    """It is named, and the object's socket is not left open."""
    other = make()
    server = make()
    host, port = other.server_address
    with pytest.raises(ListenError, match=f"{host}:{port}.*in use"):
        serve(server, f"tcp://{host}:{port}").start()


# -- what is refused


class Slotted:
    """Something that is no server at all."""


def test_no_socket() -> None:
    """An object without a socket cannot be served."""
    with pytest.raises(TargetError, match=r"BaseServer cannot be adopted: .*no attribute 'socket'"):
        StockServer(socketserver.BaseServer(HOME, Line))


def test_the_class_itself() -> None:
    """The class is no handler, and the message says what to do."""
    with pytest.raises(TargetError, match="serve an object of it"):
        serve(socketserver.TCPServer)


def test_a_function_that_makes_something_else() -> None:
    """The message says what it made."""
    with pytest.raises(TargetError, match="not an object of type Slotted"):
        serve(lambda: Slotted())


def test_datagrams_for_connections(make: Make) -> None:
    """A server of connections has no use for an address of datagrams."""
    with pytest.raises(SettingsError, match=r"for connections, and .* brings datagrams"):
        serve(make(), "udp://127.0.0.1:0")


def test_closing_what_was_only_adopted(make: Make) -> None:
    """An object that nobody came to serve can still be closed by its owner."""
    server = make()
    serve(server)
    server.server_close()
    with contextlib.suppress(OSError):
        assert server.socket.fileno() == -1
