"""Tell what kind of handler a target is, and how to serve with it."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from forkserve.address import Address
from forkserve.binding import AnyListener
from forkserve.compat import (
    StockConnection,
    find_refused_address,
    find_stock,
    serve_with_stock,
    serve_with_stock_datagram,
)
from forkserve.connection import Connection
from forkserve.datagram import Request
from forkserve.errors import ForkserveError, SettingsError, TargetError, describe
from forkserve.handler import DatagramHandler, Serve, StreamHandler, serve_with

if TYPE_CHECKING:
    from forkserve.stock_server import StockServer


class Adopted(NamedTuple):
    """How to serve connections and datagrams with a target: None for what it is not meant for."""

    name: str
    serve_connection: Serve | None
    serve_datagram: Serve | None
    connection_type: type[Any] = Connection
    handler_class: type[Any] | None = None
    server: "StockServer | None" = None


def adopt(target: Any) -> Adopted:
    """Return how to serve with the target; raises TargetError if it is no handler.

    A function without arguments is called: it makes a ``socketserver`` server.
    """
    if isinstance(target, type):
        return _adopt_class(target)
    if find_stock(target, "BaseServer"):
        return _adopt_server(target)
    name = getattr(target, "__qualname__", None) or repr(target)
    if not callable(target):
        raise TargetError(f"{name} is no handler: it is an object of type {type(target).__name__}")
    if _takes_one_argument(name, target):
        return Adopted(name, target, target)
    return _adopt_server(_make_server(name, target))


def with_second_chance(make: Callable[[], Any]) -> Any:
    """Call what makes a target, and once more if a server object in it finds its address taken.

    It may be served at another one. Raises ListenError, and what make raises.
    """
    try:
        return make()
    except Exception as error:
        refusal = error.__cause__ if isinstance(error, TargetError) else error
        address = find_refused_address(refusal)
        if address is None:
            raise
        assert isinstance(refusal, OSError)
    from forkserve.stock_binding import make_unbound

    return make_unbound(make, address, refusal)


def refuse_misfits(adopted: Adopted, places: Sequence[Address | AnyListener]) -> None:
    """Raise SettingsError for an address or listener whose requests the handler is not for."""
    for place in places:
        if place.is_datagram is None:
            continue  # an inherited descriptor, not looked at yet
        serve = adopted.serve_datagram if place.is_datagram else adopted.serve_connection
        if serve is None:
            brings, wants = "datagrams", "connections"
            if not place.is_datagram:
                brings, wants = wants, brings
            raise SettingsError(f"{adopted.name} is for {wants}, and {place} brings {brings}")


def choose(adopted: Adopted, *, connections: bool, datagrams: bool) -> Serve:
    """Return what serves the kinds of requests that the addresses bring."""
    if not (connections and datagrams):
        serve = adopted.serve_datagram if datagrams else adopted.serve_connection
        assert serve is not None, "the kinds are checked before"
        return serve

    def serve_either(request: Request) -> None:
        serve = adopted.serve_datagram if request.listener.is_datagram else adopted.serve_connection
        assert serve is not None
        serve(request)

    return serve_either


def _adopt_class(target: type[Any]) -> Adopted:
    name = target.__qualname__
    for base in (StreamHandler, DatagramHandler):
        if issubclass(target, base):
            if target.handle is base.handle:
                raise TargetError(f"{name} is no handler yet: it has no handle()")
            serve = serve_with(target)
            if base is StreamHandler:
                return Adopted(name, serve, None, handler_class=target)
            return Adopted(name, None, serve, handler_class=target)
    if not find_stock(target, "BaseRequestHandler"):
        if find_stock(target, "BaseServer"):
            raise TargetError(
                f"{name} is no handler but a class of servers: serve an object of it, or a function"
                " without arguments that returns one"
            )
        raise TargetError(
            f"{name} is no handler: expected a subclass of forkserve.StreamHandler,"
            " forkserve.DatagramHandler or socketserver.BaseRequestHandler, or a function"
        )
    return Adopted(
        name,
        None if find_stock(target, "DatagramRequestHandler") else serve_with_stock(target),
        None if find_stock(target, "StreamRequestHandler") else serve_with_stock_datagram(target),
        StockConnection,
        target,
    )


def _adopt_server(server: Any) -> Adopted:
    from forkserve.stock_server import StockServer  # imports socketserver, which the target has

    stock = StockServer(server)
    serve = stock.serve
    name = f"this {type(server).__qualname__}"
    return Adopted(
        name,
        None if stock.is_datagram else serve,
        serve if stock.is_datagram else None,
        handler_class=getattr(server, "RequestHandlerClass", None),
        server=stock,
    )


def _make_server(name: str, function: Any) -> Any:
    try:
        server = with_second_chance(function)
    except ForkserveError:
        raise
    except BaseException as error:
        raise TargetError(f"calling {name}() raised {describe(error)}") from error
    if isinstance(server, type) or not find_stock(server, "BaseServer"):
        raise TargetError(
            f"{name} is no handler: a function takes one argument, the connection or the datagram,"
            " or none and returns a socketserver server, not an object of type"
            f" {type(server).__name__}"
        )
    return server


def _takes_one_argument(name: str, function: Any) -> bool:
    """Whether it does; if not, it takes none. Raises TargetError for every other function."""
    import inspect  # not for those who serve a class: it is large

    for called in (function, getattr(function, "__call__", None)):  # noqa: B004
        if inspect.iscoroutinefunction(called) or inspect.isasyncgenfunction(called):
            raise TargetError(f"{name} is a coroutine function: handlers are blocking code")
    for arguments in ([None], []):
        try:
            signature = inspect.signature(function)
            signature.bind(*arguments)
        except (TypeError, ValueError):
            continue
        if signature.parameters or not arguments:
            return bool(arguments)
    raise TargetError(
        f"{name} is no handler: it does not take one argument, the connection or the datagram"
    )
