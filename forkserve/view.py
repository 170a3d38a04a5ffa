"""What a handler sees as self.server."""

import os
import signal
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from forkserve.datagram import DatagramListener
from forkserve.stop import Stop

if TYPE_CHECKING:
    from forkserve.binding import AnyListener
    from forkserve.connection import Peer


class View:
    """The server as a handler knows it, with the attributes of a ``socketserver`` server."""

    def __init__(
        self,
        listener: "AnyListener",
        stop: Stop,
        shutdown: Callable[[], None],
        *,
        handler: Any = None,
        multithread: bool = False,
        multiprocess: bool = False,
    ) -> None:
        self._listener = listener
        self._stop = stop
        self._shutdown = shutdown
        self._extend_timeout: Callable[[object, float], None] | None = None
        self.server_address: Peer = listener.name
        self.RequestHandlerClass = handler
        # Whether other handlers run at the same time in this process, and in others; PEP 3333
        # wants to know.
        self.multithread = multithread
        self.multiprocess = multiprocess

    @property
    def stopping(self) -> bool:
        """Whether the end is near: finish soon, begin nothing long."""
        return self._stop.is_set

    @property
    def socket(self) -> socket.socket:
        """The listening socket; forkserve owns it. Closed in the process of one connection."""
        return self._listener.socket

    @property
    def address_family(self) -> int:
        """The family of the listening socket."""
        return self._listener.socket.family

    @property
    def socket_type(self) -> int:
        """Whether it is for connections or for datagrams: SOCK_STREAM or SOCK_DGRAM."""
        return self._listener.socket.type

    def extend_timeout(self, request: object, seconds: float) -> None:
        """Let a connection last so many seconds more from now, whatever --connection-timeout is.

        For the one that serves it; ``connection.extend_timeout(seconds)`` is the same.
        """
        if self._extend_timeout is not None:
            self._extend_timeout(request, seconds)

    def be_told_to_extend(self, how: Callable[[object, float], None]) -> None:
        """Have it done by whoever knows what is being served."""
        self._extend_timeout = how

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"forkserve's server has no {name!r}; a socketserver object keeps its own attributes if"
            " the object is the target, and not its handler class"
        )

    def count_drops(self) -> int:
        """Return how many datagrams found the queue full and are lost; 0 for connections."""
        listener = self._listener
        return listener.count_drops() if isinstance(listener, DatagramListener) else 0

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
