"""Serve with a socketserver server object, its overrides honoured."""

import contextlib
import copy
import os
import socket
import socketserver
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from forkserve.address import Address, UDPAddress, UnixgramAddress
from forkserve.binding import AnyListener, open_listeners
from forkserve.compat import undo_timeout, warn_of_truncation
from forkserve.connection import is_hung_up
from forkserve.datagram import Datagram, DatagramListener
from forkserve.errors import ForkserveError, SettingsError, TargetError, describe
from forkserve.log import log
from forkserve.run_handler import format_peer
from forkserve.stock_binding import find_kept, identify_own, listen_at_home, move, own_address
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
        name = type(server).__qualname__
        self._server = server
        self._servers: dict[AnyListener, Any] = {}  # the object, or its copy, that each belongs to
        try:
            if not isinstance(server.socket, socket.socket):
                raise TypeError("its socket is none")
            self.is_datagram = server.socket_type == socket.SOCK_DGRAM
            self._file = identify_own(server)
            _replace_the_loop(server)
        except Exception as error:
            raise TargetError(f"this {name} cannot be adopted: {error}") from error

    def listen_at_home(self) -> list[AnyListener]:
        """Listen at the object's own address; raises ListenError."""
        self._servers.clear()
        if self._server.socket.fileno() < 0:  # as constructors do that fail
            return self.listen_on(open_listeners([own_address(self._server)]))
        _call_its_own(lambda: listen_at_home(self._server))
        address = own_address(self._server)
        self._servers[_make_listener(self._server, address)] = self._server
        return list(self._servers)

    def listen_on(self, opened: Sequence[AnyListener]) -> list[AnyListener]:
        """Have the object, and a copy of it for each further one, at home at these listeners.

        They are not to be used any more: what is returned takes their place.
        """
        self._servers.clear()
        kept = self.kept()
        if kept is None:
            self.leave()  # it may have one of these addresses
        with contextlib.ExitStack() as failed:
            for one in opened:
                failed.callback(one.close)
            if any(one.is_datagram != self.is_datagram for one in opened):
                kind = "datagrams" if self.is_datagram else "connections"
                raise SettingsError(f"{type(self._server).__qualname__} handles {kind} only")
            servers = [self._server, *(copy.copy(self._server) for _ in opened[1:])]
            for server, one in zip(servers, opened, strict=True):
                if one is not kept:
                    _call_its_own(partial(move, server, one))
                listener = _make_listener(server, one.address)
                listener.stand_in_for(one)
                self._servers[listener] = server
            failed.pop_all()
        return list(self._servers)

    def kept(self, listeners: Sequence[AnyListener] = ()) -> AnyListener | None:
        """Return the listener of an earlier generation that is this object's.

        Its constructor was given it, or has asked for any port, and it is one of these.
        """
        return find_kept(self._server, listeners)

    def leave(self) -> None:
        """Close the socket that the object has bound, and remove the file of a Unix one."""
        if self._server.socket.fileno() >= 0:
            if self._file is not None and self._file == identify_own(self._server):
                os.unlink(self._server.server_address)
            self._server.socket.close()

    def attach(self, listener: AnyListener, view: "View") -> None:
        """Give the object that is served at the listener what our own handlers see."""
        self._servers[listener].forkserve = Adoption(view, {})

    def serve(self, request: Datagram | AdoptedRequest) -> None:
        """Do with a request what the object would, in this thread."""
        server = self._servers[request.listener]
        given, address = _unpack(request)
        raised = server.forkserve.raised
        raised[id(given)] = None
        try:
            if _shake_hands(given):
                _process(server, given, address)
            else:
                _end(server, given)
        finally:
            if isinstance(request, Datagram):
                undo_timeout(request.listener)
            else:
                request.let_go()
            error = raised.pop(id(given))
        if error is not None:
            if not isinstance(request, Datagram):
                request.was_lost = error.was_lost
            raise error.error


def _unpack(request: Datagram | AdoptedRequest) -> tuple[Any, Any]:
    """Return the request and the client address as the object's methods take them."""
    if not isinstance(request, Datagram):
        return request.request, request.client_address
    if request.truncated:
        warn_of_truncation(request)
    return (request.data, request.listener.socket), request.address


def _call_its_own(methods: Callable[[], None]) -> None:
    """Call server_bind and server_activate, which may be the user's."""
    try:
        methods()
    except ForkserveError:
        raise
    except Exception as error:
        raise TargetError(f"server_bind or server_activate raised {describe(error)}") from error


def _process(server: Any, given: Any, address: Any) -> None:
    """Be BaseServer._handle_request_noblock, after get_request."""
    try:
        if server.verify_request(given, address):
            server.process_request(given, address)
        else:
            server.shutdown_request(given)
    except Exception:
        try:
            server.handle_error(given, address)
        finally:
            _end(server, given)
    except BaseException:
        _end(server, given)
        raise


def _end(server: Any, given: Any) -> None:
    """End a request as the object does, and if that fails, all the same."""
    try:
        server.shutdown_request(given)
    except BaseException as error:
        log.debug("shutdown_request raised %s: %s", type(error).__name__, error)
        with contextlib.suppress(AttributeError, OSError):
            given.close()


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


# -- in place of the object's own loop


class Adoption(NamedTuple):
    """What an adopted object knows of forkserve."""

    view: "View"
    raised: "dict[int, Raised | None]"  # what handle_error was called for, by the request's id


class Raised(NamedTuple):
    """What a handler raised, and whether its peer was gone then."""

    error: BaseException
    was_lost: bool


class _Served(socketserver.BaseServer):
    """What takes the place of BaseServer's own methods, below all overrides."""

    forkserve: Adoption

    @property
    def stopping(self) -> bool:
        """Whether the end is near: finish soon, begin nothing long."""
        return self.forkserve.view.stopping

    def shutdown(self) -> None:
        """Ask the whole server to stop, and return at once."""
        self.forkserve.view.shutdown()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Leave the error to run_handler, which says it in one way for all.

        In a thread of the object's own, run_handler may be done with the request.
        """
        error = sys.exc_info()[1]
        if error is None:
            return
        if id(request) in self.forkserve.raised:
            self.forkserve.raised[id(request)] = Raised(error, _is_gone(request))
        else:
            peer = format_peer(client_address)
            log.error("handler of %s raised %s", peer, type(error).__name__, traceback=error)


def _is_gone(request: Any) -> bool:
    """Whether the peer has ended the connection, or reset it."""
    if not isinstance(request, socket.socket):
        return False
    return request.fileno() < 0 or is_hung_up(request)


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
    server.__class__ = type(kind.__name__, (*bases, _Served), names)


def _make_listener(server: Any, address: Address) -> AnyListener:
    if hasattr(server.socket, "do_handshake_on_connect"):
        server.socket.do_handshake_on_connect = False  # not in the accept loop
    if server.socket_type != socket.SOCK_DGRAM:
        return StockListener(server, address)
    is_its_own = server.max_packet_size != socketserver.UDPServer.max_packet_size
    if is_its_own and isinstance(address, UDPAddress | UnixgramAddress):
        address = address._replace(max_size=server.max_packet_size)  # what its class has set
    if type(server).get_request is socketserver.UDPServer.get_request:
        return DatagramListener(address, server.socket)
    return StockDatagramListener(server, address)
