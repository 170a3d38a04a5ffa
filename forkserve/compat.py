"""Let handlers written for socketserver run unmodified."""

import socket
import sys
from typing import TYPE_CHECKING, Any

from forkserve.connection import Connection
from forkserve.handler import Serve

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from forkserve.connection import Buffers, Peer
    from forkserve.listener import Listener


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


def is_stock_handler(target: object) -> bool:
    """Whether the target is a ``socketserver`` handler class; without importing socketserver."""
    stock = sys.modules.get("socketserver")
    return (
        stock is not None
        and isinstance(target, type)
        and issubclass(target, stock.BaseRequestHandler)
    )


def is_stock_datagram_handler(target: object) -> bool:
    """Whether the target is a ``socketserver`` handler class for datagrams."""
    stock = sys.modules.get("socketserver")
    return (
        stock is not None
        and isinstance(target, type)
        and issubclass(target, stock.DatagramRequestHandler)
    )


def serve_with_stock(handler: type[Any]) -> Serve:
    """Return a function that serves one connection with a stock handler class.

    Such a class does all its work in its constructor.
    """
    http = sys.modules.get("http.server")
    speaks_http = http is not None and issubclass(handler, http.BaseHTTPRequestHandler)

    def serve(connection: Connection) -> None:
        address = connection.peer
        if speaks_http and not isinstance(address, tuple):
            address = ("", 0)  # HTTP handlers take the host of it for their log lines
        handler(connection, address, connection.listener.server)

    return serve
