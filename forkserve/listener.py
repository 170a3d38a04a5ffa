"""A listening socket: accept from it, and let no new client in at the end."""

import contextlib
import errno
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from forkserve.address import DEFAULT_BACKLOG, Address
from forkserve.connection import Connection
from forkserve.endpoint import Endpoint, ListenerDied

if TYPE_CHECKING:
    from forkserve.connection import Peer

# accept(2): errors of the connection, not of the listener: the next one may be well.
_THIS_ONE_FAILED = frozenset(
    {
        errno.ECONNABORTED,
        errno.ENETDOWN,
        errno.EPROTO,
        errno.ENOPROTOOPT,
        errno.EHOSTDOWN,
        errno.ENONET,
        errno.EHOSTUNREACH,
        errno.EOPNOTSUPP,
        errno.ENETUNREACH,
        errno.ETIMEDOUT,
        errno.EPERM,
    }
)
_LISTENER_IS_DEAD = frozenset({errno.EINVAL, errno.EBADF, errno.ENOTSOCK})
_TRIES = 16

# Classic BPF over the TCP header: drop a segment with SYN and without ACK, pass all others.
_DROP_SYN = (
    (0x30, 0, 0, 13),  # load the byte of flags
    (0x54, 0, 0, 0x12),  # keep SYN and ACK
    (0x15, 0, 1, 0x02),  # SYN alone?
    (0x06, 0, 0, 0),  # drop
    (0x06, 0, 0, 0xFFFF),  # pass
)


class Listener(Endpoint):
    """A non-blocking listening socket: what it hands on are connections."""

    is_datagram = False

    def __init__(
        self, address: Address, listening: socket.socket, *, is_owned: bool = True
    ) -> None:
        super().__init__(address, listening, is_owned=is_owned)
        listening.setblocking(False)
        self.connection_type: type[Connection] = Connection
        self._accept: Callable[[], tuple[int, Peer]] = listening._accept  # type: ignore[attr-defined]
        # As plain numbers: socket.accept() makes enums of them for each connection (6-8 us).
        self._kind = int(listening.family), int(listening.type), listening.proto

    def accept(self) -> Connection | None:
        """Return the next connection, or None if the queue is empty.

        Raises ListenerDied, or OSError where the machine is at a limit or the kernel says what
        accept(2) does not list.
        """
        try:
            descriptor, address = self._accept()
        except BlockingIOError:
            return None
        except OSError as error:
            taken = self._accept_after(error)
            if taken is None:
                return None
            descriptor, address = taken
        family, kind, protocol = self._kind
        connection = self.connection_type(family, kind, protocol, descriptor)
        connection.address = address
        connection.listener = self
        connection.at_end = False
        connection.is_idle = False
        connection._buffers = None
        connection._borrowed = None
        return connection

    def _accept_after(self, error: OSError) -> "tuple[int, Peer] | None":
        for _ in range(_TRIES):
            if error.errno in _LISTENER_IS_DEAD:
                raise ListenerDied(f"{self} was shut down by somebody else: {error.strerror}")
            if error.errno not in _THIS_ONE_FAILED:
                raise error
            try:
                return self._accept()
            except BlockingIOError:
                return None
            except OSError as again:
                error = again
        raise error

    def is_listening(self) -> bool:
        """Whether the socket still accepts: it may have been shut down through another process."""
        try:
            accepts = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        except OSError:
            return False
        return bool(accepts) and not self._is_shut()  # which is all that a Unix socket shows

    def revive(self) -> bool:
        """Listen again where somebody shut the socket down; whether that worked."""
        if self.path:
            self._bind_again()
        else:
            with contextlib.suppress(OSError):
                self.socket.bind(self._place)  # gone if the kernel had chosen the port, else EINVAL
            with contextlib.suppress(OSError):
                self.socket.listen(getattr(self.address, "backlog", DEFAULT_BACKLOG))
        return self.is_listening()

    def _close_port(self) -> None:
        try:
            self._attach_filter(_DROP_SYN)
        except OSError:  # not without CAP_NET_ADMIN: a queue of one is the next best
            self.socket.listen(0)

    def refuse(self) -> None:
        """Refuse new clients from now on, after the queue was found empty.

        For every process that has the socket, so only once its owner has quiesced it.
        """
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RD)
