"""A bound socket: its address, and whose it is."""

import contextlib
import errno
import mmap
import os
import socket
from typing import TYPE_CHECKING, Protocol

from forkserve.address import Address, PathAddress, format_inet
from forkserve.errors import ListenError
from forkserve.unix_path import identify

if TYPE_CHECKING:
    from forkserve.connection import Peer

AT_A_LIMIT = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

_SCHEMES = {
    (True, socket.SOCK_STREAM): "unix",
    (True, socket.SOCK_DGRAM): "unixgram",
    (False, socket.SOCK_STREAM): "tcp",
    (False, socket.SOCK_DGRAM): "udp",
}


class ListenerDied(ListenError):
    """The socket was shut down or closed by somebody else."""


class ServerView(Protocol):
    """What a handler sees as ``self.server``."""

    @property
    def stopping(self) -> bool:
        """Whether the end is near."""
        ...


class Endpoint:
    """What listeners of connections and of datagrams have in common.

    The process that bound the socket owns it, and with it the file of a Unix socket; one that was
    inherited is nobody's here: it is watched or not, and otherwise left as it is.
    """

    is_datagram: bool

    def __init__(self, address: Address, bound: socket.socket, *, is_owned: bool = True) -> None:
        self.address = address
        self.socket = bound
        self.server: ServerView
        self.is_owned = is_owned
        self.path = address.path if isinstance(address, PathAddress) else _read_path(bound)
        self._text = _show(bound, self.path)  # for when it is closed as well
        self._owner = os.getpid() if is_owned else None
        self._place = os.path.abspath(self.path) if self.path else bound.getsockname()
        self._file = identify(self._place) if self.path and is_owned else None
        self._is_quiesced = mmap.mmap(-1, 1)  # shared with every process forked from here on

    def __str__(self) -> str:
        return self._text

    def fileno(self) -> int:
        """Return the descriptor to wait on."""
        return self.socket.fileno()

    @property
    def name(self) -> "Peer":
        """The address as the socket module gives it: (host, port, ...), or the path."""
        return self.path or self.socket.getsockname()

    def quiesce(self) -> None:
        """Let nothing new in, while what is in the queue can still be taken.

        Does nothing in a process that does not own the socket.
        """
        if self._owner == os.getpid() and not self.is_quiesced():
            with contextlib.suppress(OSError):
                self._let_nothing_in()
            self._is_quiesced[0] = 1

    def _let_nothing_in(self) -> None:
        raise NotImplementedError

    def is_quiesced(self) -> bool:
        """Whether its owner has let the last one in; known to all who share the socket."""
        return self._is_quiesced[0] == 1

    def close(self) -> None:
        """Give this process's descriptor back; the owner removes the file of a Unix socket."""
        self._unlink()
        self.socket.close()

    def _unlink(self) -> None:
        if self._file and self._owner == os.getpid() and identify(self._place) == self._file:
            os.unlink(self._place)
            self._file = None


def _show(bound: socket.socket, path: str) -> str:
    scheme = _SCHEMES[bool(path), bound.type]
    if path:
        return f"{scheme}://{path}"
    return format_inet(scheme, *bound.getsockname()[:2])


def _read_path(bound: socket.socket) -> str:
    if bound.family != socket.AF_UNIX:
        return ""
    name = bound.getsockname()
    return "@" + name[1:].decode(errors="replace") if isinstance(name, bytes) else name
