"""Run a handler on one connection: the sole error boundary."""

import select
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING

from forkserve.connection import Connection
from forkserve.errors import IncompleteRead
from forkserve.log import log
from forkserve.streams import Reader, Writer  # here, or each child would read it from disk

if TYPE_CHECKING:
    from forkserve.connection import Peer
    from forkserve.listener import ServerView
    from forkserve.stop import Stop

Serve = Callable[[Connection], None]


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


def serve_with(handler: type[StreamHandler]) -> Serve:
    """Return a function that serves one connection with a new instance of the handler.

    What a handler does not override is not called.
    """
    if handler.setup is StreamHandler.setup and handler.finish is StreamHandler.finish:

        def serve(connection: Connection) -> None:
            handler(connection).handle()

        return serve

    def serve_in_three_steps(connection: Connection) -> None:
        instance = handler(connection)
        instance.setup()
        try:
            instance.handle()
        finally:
            instance.finish()

    return serve_in_three_steps


def make_run_handler(
    serve: Serve, close: Serve, stop: "Stop", *, access_log: bool = False
) -> Serve:
    """Return run_handler: serve a connection, survive whatever that raises, give it to close."""

    def run_handler(connection: Connection) -> None:
        try:
            serve(connection)
            if connection._buffers is not None and connection._buffers.output:
                connection.flush_last()
        except BaseException as error:
            _report(error, connection, stop)
        finally:
            close(connection)

    def run_handler_and_log(connection: Connection) -> None:
        peer, begun = connection.peer, monotonic()
        run_handler(connection)
        log.access("%s served in %.1f ms", format_peer(peer), (monotonic() - begun) * 1000)

    return run_handler_and_log if access_log else run_handler


def _report(error: BaseException, connection: Connection, stop: "Stop") -> None:
    try:
        _say(error, connection)
    except BaseException as worse:  # what the user raised may raise again when it is shown
        kind, other = type(error).__name__, type(worse).__name__
        log.error("a handler raised %s, and showing that raised %s", kind, other)
    if isinstance(error, MemoryError):
        log.warning("out of memory: this worker leaves when it is done")
        stop.retire()


def _say(error: BaseException, connection: Connection) -> None:
    peer = format_peer(connection.address)
    if isinstance(error, IncompleteRead) or (isinstance(error, OSError) and _is_gone(connection)):
        log.debug("connection from %s ended early: %s: %s", peer, type(error).__name__, error)
    elif isinstance(error, TimeoutError) and connection.gettimeout() is not None:
        log.debug("connection from %s timed out: %s", peer, error)
    elif isinstance(error, SystemExit):
        log.warning("handler of %s raised SystemExit(%r): connection closed", peer, error.code)
    else:
        log.error("handler of %s raised %s", peer, type(error).__name__, traceback=error)


def _is_gone(connection: Connection) -> bool:
    """Whether this connection is dead, so that an error is its own and not some other socket's."""
    descriptor = connection.fileno()
    if descriptor < 0:
        return True
    look = select.poll()
    look.register(descriptor, 0)  # POLLHUP and POLLERR are always reported (poll(2))
    return bool(look.poll(0))


def format_peer(address: "Peer") -> str:
    """Return a peer's address as log lines show it."""
    if isinstance(address, tuple):
        host, port = address[0].removeprefix("::ffff:"), address[1]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return str(address) if address else "a Unix socket"
