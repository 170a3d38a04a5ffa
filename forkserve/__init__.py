"""Serve any socket protocol, one handler interface, in the concurrency mode a flag names."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from forkserve.acceptor import Dispatcher
    from forkserve.connection import Connection
    from forkserve.datagram import Datagram
    from forkserve.errors import (
        BootError,
        ForkserveError,
        IncompleteRead,
        ListenError,
        MessageTooLong,
        SettingsError,
        TargetError,
    )
    from forkserve.handler import DatagramHandler, StreamHandler
    from forkserve.hooks import Hooks
    from forkserve.server import Server
    from forkserve.service import Service
    from forkserve.settings import Mode
    from forkserve.strategies import Strategy

__version__ = "0.1.0"

# Imported when first used: what a handler does not need would make each fork dearer.
_HOMES = {
    "BootError": "errors",
    "Connection": "connection",
    "Datagram": "datagram",
    "DatagramHandler": "handler",
    "Dispatcher": "acceptor",
    "ForkserveError": "errors",
    "Hooks": "hooks",
    "IncompleteRead": "errors",
    "ListenError": "errors",
    "MessageTooLong": "errors",
    "Mode": "settings",
    "Server": "server",
    "Service": "service",
    "SettingsError": "errors",
    "Strategy": "strategies",
    "StreamHandler": "handler",
    "TargetError": "errors",
}

__all__ = [
    "BootError",
    "Connection",
    "Datagram",
    "DatagramHandler",
    "Dispatcher",
    "ForkserveError",
    "Hooks",
    "IncompleteRead",
    "ListenError",
    "MessageTooLong",
    "Mode",
    "Server",
    "Service",
    "SettingsError",
    "Strategy",
    "StreamHandler",
    "TargetError",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'forkserve' has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(f"forkserve.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]
