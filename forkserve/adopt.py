"""Tell what kind of handler a target is, and how to serve with it."""

from typing import Any

from forkserve.compat import (
    StockConnection,
    is_stock_datagram_handler,
    is_stock_handler,
    serve_with_stock,
)
from forkserve.connection import Connection
from forkserve.errors import SettingsError, TargetError
from forkserve.handler import Serve, StreamHandler, serve_with


def adopt(target: Any) -> tuple[Serve, type[Any]]:
    """Return how to serve one connection with the target, and the kind of connection it takes.

    Raises TargetError if it is no handler, SettingsError if it is one for datagrams.
    """
    if isinstance(target, type):
        if issubclass(target, StreamHandler):
            if target.handle is StreamHandler.handle:
                raise TargetError(f"{target.__qualname__} is no handler yet: it has no handle()")
            return serve_with(target), Connection
        if is_stock_datagram_handler(target):
            raise SettingsError(
                f"{target.__qualname__} handles datagrams: the addresses are of streams, and"
                " those of datagrams are not supported yet"
            )
        if is_stock_handler(target):
            return serve_with_stock(target), StockConnection
        raise TargetError(
            f"{target.__qualname__} is no handler: expected a subclass of"
            " forkserve.StreamHandler or socketserver.BaseRequestHandler, or a function"
        )
    name = getattr(target, "__qualname__", None) or repr(target)
    if not callable(target):
        raise TargetError(f"{name} is no handler: it is an object of type {type(target).__name__}")
    _check_function(name, target)
    return target, Connection


def _check_function(name: str, function: Any) -> None:
    import inspect  # not for those who serve a class: it is large

    for called in (function, getattr(function, "__call__", None)):  # noqa: B004
        if inspect.iscoroutinefunction(called) or inspect.isasyncgenfunction(called):
            raise TargetError(f"{name} is a coroutine function: handlers are blocking code")
    try:
        signature = inspect.signature(function)
        signature.bind(None)
    except (TypeError, ValueError):
        takes_one = False
    else:
        takes_one = bool(signature.parameters)
    if not takes_one:
        raise TargetError(f"{name} is no handler: it does not take one argument, the connection")
