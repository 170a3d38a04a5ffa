"""What the get_request of a socketserver server object returns, as dispatchers see it."""

import contextlib
import os
from typing import TYPE_CHECKING, Any

from forkserve.address import Address
from forkserve.compat import NO_HTTP_PEER, speaks_http
from forkserve.connection import Connection, plain_ipv4
from forkserve.datagram import DatagramListener, Unconnected
from forkserve.endpoint import AT_A_LIMIT, ListenerDied
from forkserve.listener import Listener
from forkserve.log import log

if TYPE_CHECKING:
    from forkserve.connection import Peer

_TRIES = 16


class AdoptedConnection(Connection):
    """A second descriptor of a socket that the object has accepted, and that it closes itself.

    With ours we end it when a stop says so, and wait for its peer to end after the object has
    closed its own: so the last bytes arrive.
    """

    __slots__ = ("client_address", "request", "was_lost")

    request: Any
    client_address: Any
    was_lost: bool

    def is_lost(self, error: OSError) -> bool:
        """Whether the peer was gone when the handler failed: we have shut it down since."""
        return self.was_lost

    def let_go(self) -> None:
        """Leave the request to those who may still have it."""
        if self.request.fileno() >= 0:  # handed on to a thread of the object's own
            super().close()
        self.request = None

    def close(self) -> None:
        """Close our descriptor, and the object's if it was not served here."""
        super().close()
        if self.request is not None:
            self.request.close()


class OpaqueRequest(Unconnected):
    """A request that is no socket, or has no second descriptor: the object has to close it."""

    __slots__ = ("address", "client_address", "listener", "request", "was_lost")

    def __init__(
        self, request: Any, client_address: Any, listener: "StockListener | StockDatagramListener"
    ) -> None:
        self.request = request
        self.client_address = client_address
        self.address = client_address
        self.listener = listener
        self.was_lost = False

    @property
    def peer(self) -> "Peer | None":
        """The peer's address as get_request gave it."""
        return self.client_address  # type: ignore[no-any-return]

    def let_go(self) -> None:
        """Leave the request to those who may still have it."""
        self.request = None

    def is_lost(self, error: OSError) -> bool:
        """Whether the peer was gone when the handler failed."""
        return self.was_lost

    def close(self) -> None:
        """Close what was not served here, if that can be."""
        with contextlib.suppress(AttributeError):
            self.request.close()


AdoptedRequest = AdoptedConnection | OpaqueRequest


class StockListener(Listener):
    """Accepts through the get_request of a server object."""

    def __init__(self, server: Any, address: Address) -> None:
        super().__init__(address, server.socket)
        self._server = server
        self._is_http = speaks_http(server.RequestHandlerClass)

    def accept(self) -> Any:
        """Return the next request, or None if the queue is empty; raises as Listener.accept."""
        got = _get_request(self._server, self)
        if got is None:
            return None
        request, address = got
        address = plain_ipv4(address)
        if self._is_http and not isinstance(address, tuple):
            address = NO_HTTP_PEER
        try:
            kind = request.family, request.type, request.proto
            connection = AdoptedConnection(*kind, os.dup(request.fileno()))
        except (AttributeError, OSError, TypeError, ValueError):
            return OpaqueRequest(request, address, self)
        connection.was_lost = False
        connection.request = request
        connection.client_address = connection.address = address
        connection.listener = self
        connection.at_end = False
        connection.is_idle = False
        connection._buffers = None
        connection._borrowed = None
        return connection


class StockDatagramListener(DatagramListener):
    """Receives through the get_request of a server object, which must not block in it."""

    def __init__(self, server: Any, address: Address) -> None:
        super().__init__(address, server.socket)
        server.socket.setblocking(False)
        self._server = server

    def accept(self) -> Any:
        """Return the next request, or None if the queue is empty; raises as Listener.accept."""
        got = _get_request(self._server, self)
        return None if got is None else OpaqueRequest(*got, self)


def _get_request(server: Any, listener: Listener | DatagramListener) -> tuple[Any, Any] | None:
    """Call get_request until it returns something; None if there is nothing.

    What it raises ends one request; when it does nothing but raise, OSError makes the loop pause.
    """
    for _ in range(_TRIES):
        try:
            request, address = server.get_request()
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno in AT_A_LIMIT:
                raise
            if not listener.is_listening():
                raise ListenerDied(f"{listener} was shut down: {error}") from error
            log.debug("%s: get_request raised %s", listener, error)
        except BaseException as error:
            listener.say_rarely("get_request raised", error)
        else:
            return request, address
    raise OSError(f"get_request raised {_TRIES} times in a row")
