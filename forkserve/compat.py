"""Let handlers written for socketserver run unmodified."""

import socket
import sys
from typing import TYPE_CHECKING, Any

from forkserve.connection import Connection
from forkserve.datagram import Datagram, DatagramListener
from forkserve.handler import Serve
from forkserve.log import log

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from forkserve.connection import Buffers, Peer
    from forkserve.listener import Listener

NO_HTTP_PEER = ("", 0)  # HTTP handlers take the host of an address for their log lines


class StockConnection(socket.socket):
    """What a stock handler gets as ``self.request``: a ``socket.socket`` that we know the end of.

    It has the slots and the verbs through which the rest of forkserve handles a Connection.
    """

    __slots__ = ("_borrowed", "_buffers", "address", "at_end", "is_idle", "listener")

    listener: "Listener"
    address: "Peer"
    at_end: bool
    is_idle: bool
    _buffers: "Buffers | None"
    _borrowed: socket.socket | None

    peer = Connection.peer
    end_if_idle = Connection.end_if_idle
    interrupt = Connection.interrupt
    is_lost = Connection.is_lost
    has_timeout = Connection.has_timeout

    def setsockopt(self, level: int, optname: int, *value: Any) -> None:
        """As ``socket.setsockopt``; what is for TCP is passed over on a Unix socket."""
        if level != socket.IPPROTO_TCP or self.family != socket.AF_UNIX:
            super().setsockopt(level, optname, *value)

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        """As ``socket.recv``, and remember the end of the input."""
        data = super().recv(size, flags)
        if not data and size:
            self.at_end = True
        return data

    def recv_into(self, buffer: "Buffer", nbytes: int = 0, flags: int = 0, /) -> int:
        """As ``socket.recv_into``, and remember the end of the input."""
        count = super().recv_into(buffer, nbytes, flags)
        if not count and memoryview(buffer).nbytes:
            self.at_end = True
        return count


def find_stock(target: object, name: str) -> bool:
    """Whether the target is such a class of ``socketserver`` or an object of one.

    Without importing it: where it is not loaded, nothing is.
    """
    stock = sys.modules.get("socketserver")
    if stock is None:
        return False
    kind = target if isinstance(target, type) else type(target)
    return issubclass(kind, getattr(stock, name))


def find_refused_address(error: BaseException | None) -> object:
    """Return the address that the constructor of a server object could not bind.

    None if that is not what the error is about.
    """
    stock = sys.modules.get("socketserver")
    if stock is None or not isinstance(error, OSError):
        return None
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code is stock.TCPServer.__init__.__code__:
            address: object = trace.tb_frame.f_locals["server_address"]
            return address
        trace = trace.tb_next
    return None


def speaks_http(handler: object) -> bool:
    """Whether it is an HTTP handler class of the standard library."""
    http = sys.modules.get("http.server")
    return (
        http is not None
        and isinstance(handler, type)
        and issubclass(handler, http.BaseHTTPRequestHandler)
    )


def serve_with_stock(handler: type[Any]) -> Serve:
    """Return a function that serves one connection with a stock handler class.

    Such a class does all its work in its constructor.
    """
    is_http = speaks_http(handler)

    def serve(connection: Connection) -> None:
        address = connection.peer
        if is_http and not isinstance(address, tuple):
            address = NO_HTTP_PEER
        handler(connection, address, connection.listener.server)

    return serve


def serve_with_stock_datagram(handler: type[Any]) -> Serve:
    """Return a function that serves one datagram with a stock handler class."""

    def serve(datagram: Datagram) -> None:
        listener = datagram.listener
        if datagram.truncated:
            warn_of_truncation(datagram)
        try:
            handler((datagram.data, listener.socket), datagram.address, listener.server)
        finally:
            undo_timeout(listener)

    return serve


def undo_timeout(listener: DatagramListener) -> None:
    """Undo the settimeout() of a handler on the socket of all: it would hold up our next look."""
    if listener.socket.gettimeout():
        listener.socket.settimeout(None)


def warn_of_truncation(datagram: Datagram) -> None:
    """Say for a handler that cannot see it that it gets a part only."""
    log.warning(
        "a datagram was longer than %d bytes (?max_size=N), and is served cut",
        datagram.listener.max_size,
    )
