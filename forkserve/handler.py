"""Run a handler on one request: the sole error boundary."""

from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any

from forkserve.connection import Connection
from forkserve.datagram import Datagram, Request
from forkserve.errors import IncompleteRead
from forkserve.log import log
from forkserve.streams import Reader, Writer  # here, or each child would read it from disk

if TYPE_CHECKING:
    import socket

    from forkserve.connection import Peer
    from forkserve.endpoint import ServerView
    from forkserve.stop import Stop

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


class Inline:
    """Serves each request right here, one at a time: the simplest dispatcher.

    ``dispatch`` is a run_handler that shows in ``current`` what it is at.
    """

    __slots__ = ("current", "dispatch")

    dispatch: Serve

    def __init__(self) -> None:
        self.current: Request | None = None


def make_run_handler(
    serve: Serve,
    close: Serve,
    stop: "Stop",
    lane: Inline | None = None,
    *,
    access_log: bool = False,
) -> Serve:
    """Return run_handler: serve a request, survive whatever that raises, give it to close."""
    lane = lane or Inline()

    def run_handler(request: Request) -> None:
        lane.current = request
        try:
            serve(request)
            if request._buffers is not None and request._buffers.output:
                request.flush_last()
        except BaseException as error:
            report(error, request, stop)
        finally:
            close(request)
            lane.current = None

    def run_handler_and_log(request: Request) -> None:
        peer, begun = request.peer, monotonic()
        run_handler(request)
        log.access("%s served in %.1f ms", format_peer(peer), (monotonic() - begun) * 1000)

    return run_handler_and_log if access_log else run_handler


def make_run_datagram(serve: Serve, stop: "Stop", lane: Inline) -> Serve:
    """Return run_handler for datagrams alone, where there is nothing to close."""

    def run_handler(datagram: Datagram) -> None:
        lane.current = datagram
        try:
            serve(datagram)
        except BaseException as error:
            report(error, datagram, stop)
        lane.current = None

    return run_handler


def report(error: BaseException, request: Request, stop: "Stop") -> None:
    """Say what a handler raised; never raises."""
    try:
        _say(error, request)
    except BaseException as worse:  # what the user raised may raise again when it is shown
        kind, other = type(error).__name__, type(worse).__name__
        log.error("a handler raised %s, and showing that raised %s", kind, other)
    if isinstance(error, MemoryError):
        log.warning("out of memory: this worker leaves when it is done")
        stop.retire()


def _say(error: BaseException, request: Request) -> None:
    peer = format_peer(request.address)
    what = "datagram" if isinstance(request, Datagram) else "connection"
    if isinstance(error, IncompleteRead) or (isinstance(error, OSError) and request.is_lost(error)):
        log.debug("%s from %s ended early: %s: %s", what, peer, type(error).__name__, error)
    elif isinstance(error, TimeoutError) and request.has_timeout():
        log.debug("%s from %s timed out: %s", what, peer, error)
    elif isinstance(error, SystemExit):
        log.warning("handler of %s raised SystemExit(%r): %s closed", peer, error.code, what)
    else:
        log.error("handler of %s raised %s", peer, type(error).__name__, traceback=error)


def format_peer(address: "Peer | None") -> str:
    """Return a peer's address as log lines show it."""
    if isinstance(address, tuple):
        host, port = address[0].removeprefix("::ffff:"), address[1]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return str(address) if address else "a Unix socket"
