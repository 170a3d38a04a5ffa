"""What a user subclasses: a handler of connections, a handler of datagrams."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from forkserve.connection import Connection
from forkserve.datagram import Datagram, Request
from forkserve.streams import Reader, Writer  # here, or each child would read it from disk

if TYPE_CHECKING:
    import socket

    from forkserve.connection import Peer
    from forkserve.endpoint import ServerView

Serve = Callable[[Any], None]  # of a connection or a datagram, whichever the handler is for


class StreamHandler:
    """Serves one connection: subclass it and write handle(), in blocking code.

    A new instance for each connection, in the process and thread that serves it; whatever
    handle() raises ends this connection and nothing else. forkserve closes the connection.
    """

    __slots__ = ("__dict__", "_rfile", "_wfile", "connection")

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    @property
    def request(self) -> Connection:
        """The connection, under the name that ``socketserver`` gives it."""
        return self.connection

    @property
    def client_address(self) -> "Peer":
        """The peer's address, as the socket module gives it."""
        return self.connection.peer

    @property
    def server(self) -> "ServerView":
        """The server: its address, and ``stopping``, which tells that the end is near."""
        return self.connection.listener.server

    @property
    def rfile(self) -> Reader:
        """The connection's input as a binary file, made when first used."""
        try:
            return self._rfile
        except AttributeError:
            self._rfile: Reader = Reader(self.connection)
            return self._rfile

    @property
    def wfile(self) -> Writer:
        """The connection's output as a buffered binary file, made when first used.

        What is written leaves when 8 KiB are there, when a read must wait, at flush(), and when
        the handler is done.
        """
        try:
            return self._wfile
        except AttributeError:
            self._wfile: Writer = Writer(self.connection)
            return self._wfile

    def setup(self) -> None:
        """Prepare, before handle()."""

    def handle(self) -> None:
        """Serve the connection."""
        raise NotImplementedError(f"{type(self).__qualname__} has no handle()")

    def finish(self) -> None:
        """Clean up after handle(), also when that raised."""


class DatagramHandler:
    """Serves one datagram: subclass it and write handle(), in blocking code.

    A new instance for each datagram, in the process and thread that serves it; whatever handle()
    raises ends the service of this datagram and nothing else.
    """

    __slots__ = ("__dict__", "datagram")

    def __init__(self, datagram: Datagram) -> None:
        self.datagram = datagram

    @property
    def request(self) -> tuple[bytes, "socket.socket"]:
        """The data and the socket, as ``socketserver`` gives them."""
        return self.datagram.data, self.datagram.listener.socket

    @property
    def client_address(self) -> "Peer | None":
        """The sender's address, as the socket module gives it."""
        return self.datagram.peer

    @property
    def server(self) -> "ServerView":
        """The server: its address, and ``stopping``, which tells that the end is near."""
        return self.datagram.listener.server

    def setup(self) -> None:
        """Prepare, before handle()."""

    def handle(self) -> None:
        """Serve the datagram."""
        raise NotImplementedError(f"{type(self).__qualname__} has no handle()")

    def finish(self) -> None:
        """Clean up after handle(), also when that raised."""


def serve_with(handler: type[StreamHandler] | type[DatagramHandler]) -> Serve:
    """Return a function that serves one request with a new instance of the handler.

    What a handler does not override is not called.
    """
    base = StreamHandler if issubclass(handler, StreamHandler) else DatagramHandler
    make: Callable[[Any], StreamHandler | DatagramHandler] = handler
    if handler.setup is base.setup and handler.finish is base.finish:

        def serve(request: Request) -> None:
            make(request).handle()

        return serve

    def serve_in_three_steps(request: Request) -> None:
        instance = make(request)
        instance.setup()
        try:
            instance.handle()
        finally:
            instance.finish()

    return serve_in_three_steps
