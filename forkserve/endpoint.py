"""A bound socket: its address, and whose it is."""

import array
import contextlib
import errno
import mmap
import os
import select
import socket
import struct
from collections.abc import Callable, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Protocol

from forkserve.address import Address, PathAddress, format_inet
from forkserve.errors import ListenError
from forkserve.log import Seldom, log
from forkserve.unix_path import identify, open_at_path

if TYPE_CHECKING:
    from forkserve.connection import Peer

AT_A_LIMIT = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

LISTENER_DIED = 75  # the exit status that tells a parent to look at its listeners
_SO_ATTACH_FILTER = 26
_BEGUN, _QUIESCED = 1, 2

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

    def extend_timeout(self, request: object, seconds: float) -> None:
        """Let a connection last so many seconds more from now."""
        ...

    def be_told_to_extend(self, how: Callable[[object, float], None]) -> None:
        """Have that done by whoever knows what is being served."""
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
        self._trouble = Seldom()
        self._was_blocking = os.get_blocking(bound.fileno())
        self.path = address.path if isinstance(address, PathAddress) else _read_path(bound)
        self._text = _show(bound, self.path)  # for when it is closed as well
        self._opener = os.getpid()
        self._place = os.path.abspath(self.path) if self.path else bound.getsockname()
        self._file = identify(self._place) if self.path and is_owned else None
        self._end = mmap.mmap(-1, 1)  # shared with every process forked from here on

    def __str__(self) -> str:
        return self._text

    def fileno(self) -> int:
        """Return the descriptor to wait on."""
        return self.socket.fileno()

    @property
    def name(self) -> "Peer":
        """The address as the socket module gives it: (host, port, ...), or the path."""
        return self.path or self.socket.getsockname()

    def say_rarely(self, what: str, error: BaseException) -> None:
        """Log an error with its traceback, but not another one for five seconds."""
        if self._trouble.is_due(monotonic()):
            log.error("%s: %s %s", self, what, type(error).__name__, traceback=error)

    def quiesce(self) -> None:
        """Let nothing new in, while what is in the queue can still be taken.

        Does nothing in a process that does not own the socket.
        """
        if self._is_ours() and not self.is_quiesced():
            self._end[0] = _BEGUN  # who finds it shut from now on, finds it in order
            with contextlib.suppress(OSError):
                self._let_nothing_in()
            self._end[0] = _QUIESCED

    def _let_nothing_in(self) -> None:
        if self.path:
            self._unlink()
            self.socket.shutdown(socket.SHUT_RD)
        else:
            self._close_port()

    def _close_port(self) -> None:
        raise NotImplementedError

    def _attach_filter(self, lines: Sequence[tuple[int, int, int, int]]) -> None:
        """Let the kernel pass on only what a program of classic BPF passes (socket(7))."""
        program = array.array("B", b"".join(struct.pack("HBBI", *line) for line in lines))
        place, _ = program.buffer_info()
        self.socket.setsockopt(
            socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", len(lines), place)
        )

    def _is_ours(self) -> bool:
        return self.is_owned and self._opener == os.getpid()

    def share_flag(self, flag: mmap.mmap) -> None:
        """Let every process that has this flag know when the socket is quiesced."""
        self._end = flag

    def belong_to(self, pid: int) -> None:
        """Make another process the one that opened and, if anybody does, owns the socket."""
        self._opener = pid

    def stand_in_for(self, other: "Endpoint") -> None:
        """Be the other's successor in this process: whose it is, and quiesced or not, is as there.

        The other must not be used any more.
        """
        self.is_owned, self._opener = other.is_owned, other._opener
        self._file, self._end = other._file, other._end

    def is_quiesced(self) -> bool:
        """Whether its owner has let the last one in; known to all who share the socket."""
        return self._end[0] == _QUIESCED

    def is_ending(self) -> bool:
        """Whether its owner has begun to do so."""
        return self._end[0] != 0

    def close(self) -> None:
        """Give this process's descriptor back; the owner removes the file of a Unix socket."""
        self._unlink()
        self.let_go()

    def _is_shut(self) -> bool:
        """Whether somebody has shut the socket down for reading: epoll says ready for ever."""
        look = select.poll()
        look.register(self.socket, select.POLLRDHUP)
        return bool(look.poll(0))

    def put_back(self) -> None:
        """Bind the path of a Unix socket again if somebody has removed its file."""
        if self._file and self._is_ours() and identify(self._place) is None:
            log.warning("%s: its file was removed; making it again", self)
            self._bind_again()

    def _bind_again(self) -> None:
        """Put another socket in the place of a Unix one that nobody can use any more."""
        if self._is_ours() and isinstance(self.address, PathAddress):
            self._unlink()
            with contextlib.suppress(OSError), open_at_path(self.address) as fresh:
                fresh.setblocking(os.get_blocking(self.socket.fileno()))
                os.dup2(fresh.fileno(), self.socket.fileno(), inheritable=False)
                self._file = identify(self._place)

    def let_go(self) -> None:
        """Close the descriptor; one that was given to this process stays open here, as it was."""
        if self.is_owned or self._opener != os.getpid():
            self.socket.close()
        elif self.socket.fileno() >= 0:
            os.set_blocking(self.socket.fileno(), self._was_blocking)
            self.socket.detach()

    def _unlink(self) -> None:
        if self._file and self._is_ours() and identify(self._place) == self._file:
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
    return show_path(bound.getsockname())


def show_path(name: str | bytes) -> str:
    """Return the name of a Unix socket as a path; an abstract one begins with an @ (unix(7))."""
    return "@" + name[1:].decode(errors="replace") if isinstance(name, bytes) else name


def is_bound(one: socket.socket) -> bool:
    """Whether the socket has a port or a path."""
    name = one.getsockname()
    return bool(name[1] if isinstance(name, tuple) else name)
