"""The modes and handler kinds that every promise is tried with."""

from dataclasses import dataclass
from itertools import product
from typing import Any

import pytest

from tests.support.server import handler


@dataclass(frozen=True, slots=True)
class Mode:
    """A way to serve: its flags, and how many connections it serves at the same time."""

    name: str
    mode: str
    flags: tuple[str, ...] = ()
    lanes: int = 20
    waiting: int = 0  # so many processes at most may wait for their next connection

    @property
    def lasting(self) -> bool:
        """Tell whether the process that serves a connection is there for the next one."""
        return self.mode != "process"

    @property
    def worker(self) -> str:
        """Return the act that tells which process takes the connections."""
        return "pid" if self.lasting else "parent"

    @property
    def arguments(self) -> tuple[str, ...]:
        """Return the mode and its flags as `running` takes them."""
        return (self.mode, *self.flags)


MODES = [
    Mode("iterative", "iterative", lanes=1),
    Mode("thread", "thread"),
    Mode("process", "process"),
    Mode("process-spare", "process", ("--spare", "2"), waiting=8),
    Mode("process-reused", "process", ("--connections-per-child", "3"), waiting=8),
    Mode("prefork", "prefork", ("-w", "2"), lanes=2),
    Mode("prefork-threads", "prefork", ("-w", "2", "--threads", "4"), lanes=8),
]
MODE = {mode.name: mode for mode in MODES}
PLAIN_MODES = [mode for mode in MODES if mode.name == mode.mode]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of handler: the targets that echo, act on lines, and refuse early."""

    name: str
    echo: str
    acts: str = ""


KINDS = [
    Kind("stream", handler("echo.py:Stream"), handler("acts.py:Stream")),
    Kind("function", handler("echo.py:function"), handler("acts.py:function")),
    Kind("base-request", handler("echo.py:Base"), handler("acts.py:Base")),
    Kind("stream-request", handler("echo.py:StreamRequest"), handler("acts.py:StreamRequest")),
]
DATAGRAM_KINDS = [
    Kind("datagram", handler("datagrams.py:Echo"), handler("datagrams.py:Act")),
    Kind("function", handler("datagrams.py:echo"), handler("datagrams.py:act")),
    Kind(
        "datagram-request", handler("datagrams.py:EchoRequest"), handler("datagrams.py:ActRequest")
    ),
    Kind("base-request", handler("datagrams.py:EchoBase"), handler("datagrams.py:ActBase")),
]
HTTP = Kind("http", "http.server:SimpleHTTPRequestHandler")

ACTS = handler("acts.py:Stream")
ECHO = handler("echo.py:Stream")


MOSTLY_PLAIN = [
    pytest.param(mode, id=mode.name, marks=() if mode in PLAIN_MODES else pytest.mark.heavy)
    for mode in MODES
]


def cross(kinds: list[Kind], transports: tuple[str, ...] = ("tcp", "unix")) -> list[Any]:
    """Return every kind in every mode over every transport, most of them heavy.

    Not heavy are the first kind in every mode over every transport, and every kind in two modes
    over TCP: that finds what depends on one of the three, and the heavy run the rest.
    """
    found = []
    for kind, mode, transport in product(kinds, MODES, transports):
        is_plain = kind is kinds[0] or (mode.name in {"thread", "prefork"} and transport == "tcp")
        name = "-".join((kind.name, mode.name, *(transport,) * (len(transports) > 1)))
        marks = () if is_plain else pytest.mark.heavy
        values = (kind, mode, transport) if len(transports) > 1 else (kind, mode)
        found.append(pytest.param(*values, id=name, marks=marks))
    return found


def named(values: list[Mode] | list[Kind]) -> list[str]:
    """Return the names, for the ids of parametrised tests."""
    return [value.name for value in values]
