"""Things that are no handlers."""

import socketserver

NUMBER = 7
TEXT = "not a handler"


class Plain:
    """A class of another kind."""


class Client(socketserver.TCPServer):
    """A server class, where an object of it would do."""


def two(connection: object, other: object) -> None:
    """Take one argument too many."""


def keyword(*, connection: object) -> None:
    """Take no positional argument."""


def nothing() -> int:
    """Return what is no server."""
    return 7


async def coroutine(connection: object) -> None:
    """Be a coroutine function."""


class Awaitable:
    """Something to call that makes a coroutine."""

    async def __call__(self, connection: object) -> None:
        """Be a coroutine function."""


awaitable = Awaitable()
