"""Which objects are handlers, and what is said of the others."""

import functools
import http.server
import re
import socketserver
from collections.abc import AsyncIterator
from typing import Any

import pytest

from forkserve.address import Address, parse_address
from forkserve.adopt import adopt, refuse_misfits
from forkserve.compat import StockConnection
from forkserve.connection import Connection
from forkserve.errors import SettingsError, TargetError
from forkserve.handler import DatagramHandler, StreamHandler


class Own(StreamHandler):
    """A handler as forkserve likes it."""

    def handle(self) -> None:
        pass


class Unfinished(StreamHandler):
    pass


class OwnDatagram(DatagramHandler):
    """A handler of datagrams as forkserve likes it."""

    def handle(self) -> None:
        pass


class Callable1:
    def __call__(self, connection: Connection) -> None:
        pass

    def method(self, connection: Connection) -> None:
        pass


class AsyncCallable:
    async def __call__(self, connection: Connection) -> None:
        pass


def one(connection: Connection) -> None:
    """Take the connection."""


def one_and_more(connection: Connection, greeting: str = "", *rest: Any, **more: Any) -> None:
    """Take the connection, and could take more."""


def none() -> None:
    """Take nothing."""


def two(connection: Connection, more: int) -> None:
    """Need more than the connection."""


def keyword_only(*, connection: Connection) -> None:
    """Take it by name only."""


def keyword_needed(connection: Connection, *, more: int) -> None:
    """Need something else too."""


async def coroutine(connection: Connection) -> None:
    """Wait for nobody."""


async def async_generator(connection: Connection) -> AsyncIterator[None]:
    """Yield to somebody."""
    yield


def test_an_own_handler_gets_our_connection() -> None:
    """A StreamHandler is given a Connection."""
    assert adopt(Own).connection_type is Connection


@pytest.mark.parametrize(
    "handler",
    [
        socketserver.BaseRequestHandler,
        socketserver.StreamRequestHandler,
        http.server.SimpleHTTPRequestHandler,
    ],
)
def test_a_stock_handler_gets_a_socket(handler: type) -> None:
    """A socketserver handler is given a true socket."""
    assert adopt(handler).connection_type is StockConnection


@pytest.mark.parametrize(
    "function",
    [
        one,
        one_and_more,
        functools.partial(two, more=1),
        Callable1(),
        Callable1().method,
        lambda connection: None,
    ],
)
def test_a_function_of_the_connection_is_called_as_it_is(function: Any) -> None:
    """Whatever can be called with one argument is a handler."""
    adopted = adopt(function)
    assert adopted.serve_connection is function
    assert adopted.serve_datagram is function


@pytest.mark.parametrize("function", [two, keyword_only, keyword_needed])
def test_a_function_that_does_not_take_one_argument(function: Any) -> None:
    """Any other function is named and refused."""
    with pytest.raises(TargetError, match=rf"^{function.__name__} is no handler: .*one argument"):
        adopt(function)


@pytest.mark.parametrize("function", [coroutine, async_generator, functools.partial(coroutine)])
def test_coroutine_functions_are_refused(function: Any) -> None:
    """Handlers are blocking code, and the error says so."""
    with pytest.raises(TargetError, match="coroutine function: handlers are blocking code"):
        adopt(function)


def test_an_object_with_a_coroutine_call_is_refused() -> None:
    """A coroutine function is refused in every disguise."""
    with pytest.raises(TargetError, match="coroutine"):
        adopt(AsyncCallable())


@pytest.mark.parametrize("thing", [None, 1, "handler", functools, [one]])
def test_what_cannot_be_called_is_no_handler(thing: Any) -> None:
    """The error says what it is instead."""
    with pytest.raises(TargetError, match=f"it is an object of type {type(thing).__name__}"):
        adopt(thing)


@pytest.mark.parametrize("kind", [int, Connection])
def test_another_class_is_no_handler(kind: type) -> None:
    """The error says which classes are."""
    with pytest.raises(TargetError, match=rf"^{kind.__qualname__} is no handler: expected a sub"):
        adopt(kind)


STREAMS, DATAGRAMS = parse_address("tcp://:0"), parse_address("udp://:0")


@pytest.mark.parametrize(
    ("handler", "misfit"),
    [
        (Own, DATAGRAMS),
        (socketserver.StreamRequestHandler, DATAGRAMS),
        (OwnDatagram, STREAMS),
        (socketserver.DatagramRequestHandler, STREAMS),
    ],
)
def test_a_handler_on_an_address_of_the_other_kind(handler: type, misfit: Address) -> None:
    """It is a handler, but not for this address: that is a wrong setting, and named."""
    with pytest.raises(
        SettingsError, match=rf"^{handler.__name__} is for .* and {re.escape(str(misfit))}"
    ):
        refuse_misfits(adopt(handler), [misfit])


@pytest.mark.parametrize("handler", [one, socketserver.BaseRequestHandler])
def test_a_handler_of_both_kinds(handler: Any) -> None:
    """A function, and a stock handler that is neither for streams nor datagrams, serves both."""
    refuse_misfits(adopt(handler), [STREAMS, DATAGRAMS])


def test_a_function_without_arguments_that_makes_no_server() -> None:
    """It is called, and what it returns is named."""
    with pytest.raises(TargetError, match=r"^none is no handler: .*type NoneType"):
        adopt(none)


def test_a_handler_without_handle_is_refused() -> None:
    """It would fail for every client: say so at once."""
    with pytest.raises(TargetError, match=r"Unfinished is no handler yet: it has no handle\(\)"):
        adopt(Unfinished)
