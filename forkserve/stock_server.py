"""Serve with a socketserver server object, its overrides honoured."""

import contextlib
import copy
import socket
import socketserver
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from forkserve.address import (
    DEFAULT_BACKLOG,
    Address,
    TCPAddress,
    UDPAddress,
    UnixAddress,
    UnixgramAddress,
    format_inet,
)
from forkserve.binding import AnyListener, explain, listen, open_listeners
from forkserve.compat import warn_of_truncation
from forkserve.datagram import Datagram, DatagramListener
from forkserve.errors import ListenError, SettingsError, TargetError
from forkserve.log import log
from forkserve.stock_request import AdoptedRequest, StockDatagramListener, StockListener

if TYPE_CHECKING:
    from forkserve.view import View

HANDSHAKE_TIMEOUT = 10.0


class StockServer:
    """A server object whose loop forkserve replaces, and whose other methods it calls.

    ``get_request`` in the accept loop, all others where the handler runs. Constructed, it has
    changed nothing but the object's class.
    """

    def __init__(self, server: Any) -> None:
        if not isinstance(getattr(server, "socket", None), socket.socket):
            raise TargetError(f"this {type(server).__qualname__} has no socket to listen on")
        self._server = server
        self.is_datagram = server.socket_type == socket.SOCK_DGRAM
        self._servers: dict[AnyListener, Any] = {}
        _replace_the_loop(server)

    def listen(self, addresses: Sequence[Address]) -> list[AnyListener]:
        """Listen at these addresses, or at the object's own if there are none.

        Raises ListenError, and SettingsError if an inherited socket is of another kind.
        """
        if not addresses and self._server.socket.fileno() < 0:
            addresses = [_own_address(self._server)]  # a constructor that fails closes its socket
        if addresses:
            self._move_all(open_listeners(addresses))
        else:
            _listen_at_home(self._server)
            address = _own_address(self._server)
            self._servers[_make_listener(self._server, address, is_owned=True)] = self._server
        return list(self._servers)

    def _move_all(self, opened: Sequence[AnyListener]) -> None:
        """Let the object, and a copy of it for each further address, be at home there."""
        if any(one.is_datagram != self.is_datagram for one in opened):
            for one in opened:
                one.close()
            kind = "datagrams" if self.is_datagram else "connections"
            raise SettingsError(f"{type(self._server).__qualname__} handles {kind} only")
        own = self._server.socket
        servers = [self._server, *(copy.copy(self._server) for _ in opened[1:])]
        for server, one in zip(servers, opened, strict=True):
            _move(server, one)
            self._servers[_make_listener(server, one.address, is_owned=one.is_owned)] = server
        own.close()

    def attach(self, listener: AnyListener, view: "View") -> None:
        """Give the object that is served at the listener what our own handlers see."""
        self._servers[listener].forkserve = view

    def serve(self, request: Datagram | AdoptedRequest) -> None:
        """Do with a request what the object would, in this thread."""
        server = self._servers[request.listener]
        given, address = _unpack(request)
        try:
            if _shake_hands(given):
                _process(server, given, address)
            else:
                server.shutdown_request(given)
        finally:
            if not isinstance(request, Datagram):
                request.let_go()
            error = server.raised.pop(id(given), None)
        if error is not None:
            raise error


def _unpack(request: Datagram | AdoptedRequest) -> tuple[Any, Any]:
    """Return the request and the client address as the object's methods take them."""
    if not isinstance(request, Datagram):
        return request.request, request.client_address
    if request.truncated:
        warn_of_truncation(request)
    return (request.data, request.listener.socket), request.address


def _process(server: Any, given: Any, address: Any) -> None:
    """Be BaseServer._handle_request_noblock, after get_request."""
    try:
        if server.verify_request(given, address):
            server.process_request(given, address)
        else:
            server.shutdown_request(given)
    except BaseException as error:
        try:
            if not isinstance(error, Exception):
                raise
            server.handle_error(given, address)
        finally:
            server.shutdown_request(given)


def _shake_hands(given: Any) -> bool:
    """Do a TLS handshake that was kept out of the accept loop; whether the peer is fine."""
    ssl = sys.modules.get("ssl")
    if ssl is None or not isinstance(given, ssl.SSLSocket):
        return True
    timeout = given.gettimeout()
    try:
        given.settimeout(HANDSHAKE_TIMEOUT)
        given.do_handshake()
        given.settimeout(timeout)
    except OSError as error:
        log.debug("TLS handshake failed: %s", error)
        return False
    return True


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
        refused, made = [(None, refusal)], None
    for server, error in refused:
        if server is not made:
            reason = error.strerror or error
            raise ListenError(f"cannot listen on {_show(address)}: {reason}") from error
    return made


@contextlib.contextmanager
def _putting_off_refusals() -> Iterator[list[tuple[Any, OSError]]]:
    """Let constructors go on whose address is taken, and yield the list of them."""
    refused: list[tuple[Any, OSError]] = []
    construct = socketserver.TCPServer.__init__

    def construct_anyway(self: Any, *arguments: Any, **named: Any) -> None:
        try:
            construct(self, *arguments, **named)
        except OSError as error:  # its socket is closed now
            refused.append((self, error))

    socketserver.TCPServer.__init__ = construct_anyway  # type: ignore[method-assign]
    try:
        yield refused
    finally:
        socketserver.TCPServer.__init__ = construct  # type: ignore[method-assign]


def _show(address: object) -> str:
    if isinstance(address, tuple):
        return format_inet("tcp", *address[:2]).removeprefix("tcp://")
    return str(address)


# -- in place of the object's own loop


class _Served(socketserver.BaseServer):
    """What takes the place of BaseServer's own methods, below all overrides."""

    forkserve: "View"
    raised: dict[int, BaseException]  # what handle_error was called for, by the request's id

    @property
    def stopping(self) -> bool:
        """Whether the end is near: finish soon, begin nothing long."""
        return self.forkserve.stopping

    def shutdown(self) -> None:
        """Ask the whole server to stop, and return at once."""
        self.forkserve.shutdown()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Leave the error to run_handler, which says it in one way for all."""
        error = sys.exc_info()[1]
        if error is not None:
            self.raised[id(request)] = error


class _NotThreading(socketserver.ThreadingMixIn):
    """The mode decides where a request is processed; here it is."""

    def process_request(self, request: Any, client_address: Any) -> None:
        """Do here what ThreadingMixIn does in a thread."""
        self.process_request_thread(request, client_address)


class _NotForking(socketserver.ForkingMixIn):
    """The mode decides where a request is processed; here it is."""

    def process_request(self: Any, request: Any, client_address: Any) -> None:
        """Do here what ForkingMixIn does in a process."""
        socketserver.BaseServer.process_request(self, request, client_address)


def _replace_the_loop(server: Any) -> None:
    """Put our methods into the object's class, behind those of its author.

    The new class has one base more than the old; by Python's method resolution that base comes
    just before the class of the standard library whose methods it replaces.
    """
    kind = type(server)
    if isinstance(server, _Served):
        return
    bases: list[type[Any]] = [kind]
    if issubclass(kind, socketserver.ThreadingMixIn):
        bases.append(_NotThreading)
    if issubclass(kind, socketserver.ForkingMixIn):
        bases.append(_NotForking)
    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__slots__": ()}
    try:
        server.raised = {}
        server.__class__ = type(kind.__name__, (*bases, _Served), names)
    except TypeError as error:
        raise TargetError(f"this {kind.__qualname__} cannot be adopted: {error}") from error


# -- its address


def _own_address(server: Any) -> Address:
    place, is_datagram = server.server_address, server.socket_type == socket.SOCK_DGRAM
    if server.address_family == socket.AF_UNIX:
        path = place if isinstance(place, str) else "@" + bytes(place[1:]).decode(errors="replace")
        if is_datagram:
            return UnixgramAddress(f"unixgram://{path}", path)
        return UnixAddress(f"unix://{path}", path)
    host, port = place[:2]
    host = host or ("::" if server.address_family == socket.AF_INET6 else "0.0.0.0")
    if is_datagram:
        return UDPAddress(format_inet("udp", host, port), host, port)
    return TCPAddress(format_inet("tcp", host, port), host, port)


def _listen_at_home(server: Any) -> None:
    """Have the object bind its socket if its constructor has not, and let more clients wait."""
    try:
        if not _is_bound(server.socket):
            server.server_bind()
        if server.socket_type != socket.SOCK_DGRAM:
            if not server.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                server.server_activate()
            listen(server.socket, max(DEFAULT_BACKLOG, server.request_queue_size))
    except OSError as error:
        server.socket.close()
        raise explain(error, _own_address(server)) from error


def _is_bound(own: socket.socket) -> bool:
    name = own.getsockname()
    return bool(name[1] if isinstance(name, tuple) else name)


def _move(server: Any, opened: AnyListener) -> None:
    """Let server_bind and server_activate run on a socket that has nothing left to bind."""
    own = server.socket
    bound = server.socket = _Bound(opened)
    server.server_address, server.address_family = opened.name, opened.socket.family
    server.server_bind()
    server.server_activate()
    if opened.path and hasattr(server, "server_port"):
        server.server_name, server.server_port = "localhost", 0
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


def _make_listener(server: Any, address: Address, *, is_owned: bool) -> AnyListener:
    if hasattr(server.socket, "do_handshake_on_connect"):
        server.socket.do_handshake_on_connect = False  # not in the accept loop
    if server.socket_type != socket.SOCK_DGRAM:
        return StockListener(server, address, is_owned=is_owned)
    if type(server).get_request is socketserver.UDPServer.get_request:
        return DatagramListener(address, server.socket, is_owned=is_owned)
    return StockDatagramListener(server, address, is_owned=is_owned)
