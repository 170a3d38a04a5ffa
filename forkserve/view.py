"""What a handler sees as self.server."""

import os
import signal
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from forkserve.listener import Listener
from forkserve.stop import Stop

if TYPE_CHECKING:
    from forkserve.connection import Peer


class View:
    """The server as a handler knows it, with the attributes of a ``socketserver`` server."""

    def __init__(self, listener: Listener, stop: Stop, shutdown: Callable[[], None]) -> None:
        self._listener = listener
        self._stop = stop
        self._shutdown = shutdown
        self.server_address: Peer = listener.path or listener.socket.getsockname()

    @property
    def stopping(self) -> bool:
        """Whether the end is near: finish soon, begin nothing long."""
        return self._stop.is_set

    @property
    def socket(self) -> socket.socket:
        """The listening socket; forkserve owns it."""
        return self._listener.socket

    @property
    def server_name(self) -> str:
        """The host's name, as HTTP handlers ask for it; may block on a name server."""
        address = self.server_address
        return socket.getfqdn(address[0]) if isinstance(address, tuple) else "localhost"

    @property
    def server_port(self) -> int:
        """The port, 0 on a Unix socket."""
        address = self.server_address
        return int(address[1]) if isinstance(address, tuple) else 0

    def shutdown(self) -> None:
        """Ask the whole server to stop, and return at once."""
        self._shutdown()


def stop_process(pid: int) -> Callable[[], None]:
    """Return a function that asks a process to stop."""

    def shutdown() -> None:
        os.kill(pid, signal.SIGTERM)

    return shutdown
