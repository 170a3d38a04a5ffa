"""Bind the socket of a socketserver server object, or move it."""

import contextlib
import socket
import socketserver
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from forkserve.address import (
    DEFAULT_BACKLOG,
    Address,
    TCPAddress,
    UDPAddress,
    UnixAddress,
    UnixgramAddress,
    format_inet,
)
from forkserve.binding import AnyListener, explain, listen
from forkserve.endpoint import is_bound, show_path
from forkserve.errors import ListenError
from forkserve.unix_path import identify


def own_address(server: Any) -> Address:
    """Return the address that the object was made with, or has bound."""
    place, is_datagram = server.server_address, server.socket_type == socket.SOCK_DGRAM
    if server.address_family == socket.AF_UNIX:
        path = show_path(place)
        if is_datagram:
            return UnixgramAddress(f"unixgram://{path}", path)
        return UnixAddress(f"unix://{path}", path)
    host, port = place[:2]
    host = host or ("::" if server.address_family == socket.AF_INET6 else "0.0.0.0")
    if is_datagram:
        return UDPAddress(format_inet("udp", host, port), host, port)
    return TCPAddress(format_inet("tcp", host, port), host, port)


def identify_own(server: Any) -> tuple[int, int] | None:
    """Return what tells the file of a Unix socket that the object has bound, if it has."""
    own = server.socket
    if own.family != socket.AF_UNIX or own.fileno() < 0 or not is_bound(own):
        return None
    return identify(server.server_address) if isinstance(server.server_address, str) else None


def listen_at_home(server: Any) -> None:
    """Have the object bind its socket if its constructor has not, and let more clients wait."""
    try:
        if not is_bound(server.socket):
            server.server_bind()
        if server.socket_type != socket.SOCK_DGRAM:
            if not server.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                server.server_activate()
            # Or what is in TIME_WAIT after a stop would keep the next one from binding (tcp(7)).
            server.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listen(server.socket, max(DEFAULT_BACKLOG, server.request_queue_size))
    except OSError as error:
        server.socket.close()
        raise explain(error, own_address(server)) from error


def move(server: Any, opened: AnyListener) -> None:
    """Let server_bind and server_activate run on a socket that has nothing left to bind."""
    own = server.socket  # closed by now
    bound = server.socket = _Bound(opened)
    server.server_address, server.address_family = opened.name, opened.socket.family
    try:
        server.server_bind()
        server.server_activate()
    except BaseException:
        bound.detach()
        raise
    if opened.path and hasattr(server, "server_port"):
        server.server_name, server.server_port = "localhost", 0
        if hasattr(server, "setup_environ"):  # WSGI servers have both in there too
            server.setup_environ()
    if server.socket is bound:
        bound.detach()
        server.socket = _wrap_like(own, opened.socket)
    else:
        opened.socket.detach()  # wrapped by an override, which has the descriptor now


class _Bound(socket.socket):
    """A socket that is bound and listens already."""

    def __init__(self, opened: AnyListener) -> None:
        one = opened.socket
        super().__init__(one.family, one.type, one.proto, one.fileno())
        self._opened = opened

    def bind(self, address: Any) -> None:
        """Do nothing."""

    def listen(self, backlog: int = 0) -> None:
        """Do nothing."""

    def getsockname(self) -> Any:
        """Return the address as it was configured."""
        return self._opened.name

    def setsockopt(self, *arguments: Any) -> None:
        """As ever, but for options that a socket of this family does not have."""
        with contextlib.suppress(OSError):
            super().setsockopt(*arguments)


def _wrap_like(own: socket.socket, opened: socket.socket) -> socket.socket:
    ssl = sys.modules.get("ssl")
    if ssl is None or not isinstance(own, ssl.SSLSocket):
        return opened
    wrapped: socket.socket = own.context.wrap_socket(opened, server_side=True)
    return wrapped


# -- a constructor whose address is taken


def make_unbound(make: Callable[[], Any], address: object, refusal: OSError) -> Any:
    """Make once more what was refused its address, which may be served elsewhere, or freed yet.

    ``make`` returns the server object, or the function that makes one; what other objects are
    refused meanwhile is as fatal as before. Raises ListenError.
    """
    try:
        with _putting_off_refusals() as refused:
            made = make()
    except Exception:
        raise _explain_refusal(address, refusal) from refusal
    for server, error in refused:
        if server is not made:
            raise _explain_refusal(server.server_address, error) from error
        made.socket.close()  # unbound: it is opened anew where it is to listen
    return made


def _explain_refusal(address: object, error: OSError) -> ListenError:
    where, reason = _show(address), error.strerror or error
    return ListenError(
        f"cannot listen on {where}, for which the target's module makes a server object: {reason}"
    )


@contextlib.contextmanager
def _putting_off_refusals() -> Iterator[list[tuple[Any, OSError]]]:
    """Let constructors go on whose address is taken, and yield the list of them."""
    refused: list[tuple[Any, OSError]] = []
    construct = socketserver.TCPServer.__init__

    def construct_anyway(self: Any, *arguments: Any, **named: Any) -> None:
        try:
            construct(self, *arguments, **named)
        except OSError as error:
            refused.append((self, error))
            self.socket = socket.socket(self.address_family, self.socket_type)  # it was closed

    socketserver.TCPServer.__init__ = construct_anyway  # type: ignore[method-assign]
    try:
        yield refused
    finally:
        socketserver.TCPServer.__init__ = construct  # type: ignore[method-assign]


def _show(address: object) -> str:
    if isinstance(address, tuple):
        return format_inet("tcp", *address[:2]).removeprefix("tcp://")
    return str(address)


# -- a constructor whose address was kept from an earlier generation


@contextlib.contextmanager
def giving_kept(kept: Sequence[AnyListener]) -> Iterator[None]:
    """Let a constructor that names an address which was kept find its socket bound already."""
    left = list(kept)
    construct = socketserver.TCPServer.__init__

    def construct_at_kept(
        self: Any, server_address: Any, RequestHandlerClass: Any, bind_and_activate: bool = True
    ) -> None:
        listener = _match(self, server_address, left) if bind_and_activate else None
        if listener is None:
            construct(self, server_address, RequestHandlerClass, bind_and_activate)
            self.forkserve_asked = server_address
            return
        left.remove(listener)
        construct(self, server_address, RequestHandlerClass, bind_and_activate=False)
        self.socket.close()
        move(self, listener)
        self.forkserve_kept = listener

    socketserver.TCPServer.__init__ = construct_at_kept  # type: ignore[method-assign]
    try:
        yield
    finally:
        socketserver.TCPServer.__init__ = construct  # type: ignore[method-assign]


def find_kept(server: Any, kept: Sequence[AnyListener]) -> AnyListener | None:
    """Return the listener that the object's constructor was given, or one for any port it wants.

    Which of several objects that want any port is the one to be served, is not known before.
    """
    given: AnyListener | None = getattr(server, "forkserve_kept", None)
    asked = getattr(server, "forkserve_asked", None)
    if given is not None or not isinstance(asked, tuple) or asked[1] != 0:
        return given
    for listener in kept:
        if _is_alike(server, listener) and not listener.path:
            port = listener.socket.getsockname()[1]
            if _is_at(server, (asked[0], port), listener):
                return listener
    return None


def _match(server: Any, asked: Any, kept: Sequence[AnyListener]) -> AnyListener | None:
    """Return the kept listener where an object wants to be."""
    for listener in kept:
        if _is_alike(server, listener) and _is_at(server, asked, listener):
            return listener
    return None


def _is_alike(server: Any, listener: AnyListener) -> bool:
    own = listener.socket
    return (own.family, own.type) == (server.address_family, server.socket_type)


def _is_at(server: Any, asked: Any, listener: AnyListener) -> bool:
    if listener.path:
        return asked == listener.path and identify(listener.path) is not None
    host, port = listener.socket.getsockname()[:2]
    return isinstance(asked, tuple) and asked[1] == port and _resolve(server, asked) == host


def _resolve(server: Any, asked: tuple[Any, ...]) -> str:
    """Return the numeric address of a host that an object wants to be at; empty if unknown."""
    try:
        found = socket.getaddrinfo(
            asked[0] or None, 0, server.address_family, flags=socket.AI_PASSIVE
        )
    except OSError:
        return ""
    return str(found[0][4][0])
