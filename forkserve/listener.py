"""A listening socket: open it, accept from it, and let no new client in at the end."""

import array
import contextlib
import errno
import fcntl
import mmap
import os
import select
import socket
import stat
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from forkserve.address import Address, TCPAddress, UnixAddress, format_tcp
from forkserve.connection import Connection
from forkserve.errors import ListenError

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

# Inherited by every connection, so they cost nothing on its way: an answer is not held back, a
# peer that vanished is noticed after about two minutes (tcp(7)).
_TCP_OPTIONS = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 120_000),
)

# Classic BPF over the TCP header: drop a segment with SYN and without ACK, pass all others.
_DROP_SYN = (
    (0x30, 0, 0, 13),  # load the byte of flags
    (0x54, 0, 0, 0x12),  # keep SYN and ACK
    (0x15, 0, 1, 0x02),  # SYN alone?
    (0x06, 0, 0, 0),  # drop
    (0x06, 0, 0, 0xFFFF),  # pass
)
_SO_ATTACH_FILTER = 26


class ListenerDied(ListenError):
    """The listening socket was shut down or closed by somebody else."""


class ServerView(Protocol):
    """What a handler sees as ``self.server``."""

    @property
    def stopping(self) -> bool:
        """Whether the end is near."""
        ...


class Listener:
    """A non-blocking listening socket and the address it was asked for.

    The process that opened it owns it: only there do quiesce() and close() touch what others
    share, its queue and its file.
    """

    def __init__(self, address: Address, listening: socket.socket) -> None:
        self.address = address
        self.socket = listening
        self.path = address.path if isinstance(address, UnixAddress) else ""
        self.server: ServerView
        self.connection_type: type[Connection] = Connection
        self._owner = os.getpid()
        self._place = os.path.abspath(self.path) if self.path else listening.getsockname()
        self._file = _identify(self._place) if self.path else None
        self._is_quiesced = mmap.mmap(-1, 1)  # shared with every process forked from here on
        self._accept: Callable[[], tuple[int, Peer]] = listening._accept  # type: ignore[attr-defined]
        # As plain numbers: socket.accept() makes enums of them for each connection (6-8 us).
        self._kind = int(listening.family), int(listening.type), listening.proto

    def __str__(self) -> str:
        if self.path:
            return f"unix://{self.path}"
        host, port = self.socket.getsockname()[:2]
        return format_tcp(host, port)

    def fileno(self) -> int:
        """Return the descriptor to wait on."""
        return self.socket.fileno()

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
        look = select.poll()
        look.register(self.socket, select.POLLRDHUP)  # all that a Unix socket shows of it
        return bool(accepts) and not look.poll(0)

    def revive(self) -> bool:
        """Listen again on a TCP socket that somebody shut down; whether that worked."""
        if not self.path:
            with contextlib.suppress(OSError):
                self.socket.bind(self._place)  # gone if the kernel had chosen the port, else EINVAL
            with contextlib.suppress(OSError):
                self.socket.listen(self.address.backlog)
        return self.is_listening()

    def quiesce(self) -> None:
        """Let no new client in, while those in the queue can still be accepted."""
        if self.is_quiesced():
            return
        with contextlib.suppress(OSError):
            if self.path:
                self._unlink()
                self.socket.shutdown(socket.SHUT_RD)
            else:
                try:
                    self._drop_new_clients()
                except OSError:  # not without CAP_NET_ADMIN: a queue of one is the next best
                    self.socket.listen(0)
        self._is_quiesced[0] = 1

    def is_quiesced(self) -> bool:
        """Whether its owner has let the last client in; known to all who share the socket."""
        return self._is_quiesced[0] == 1

    def refuse(self) -> None:
        """Refuse new clients from now on, after the queue was found empty.

        For every process that has the socket, so only once its owner has quiesced it.
        """
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RD)

    def _drop_new_clients(self) -> None:
        program = array.array("B", b"".join(struct.pack("HBBI", *line) for line in _DROP_SYN))
        place, _ = program.buffer_info()
        self.socket.setsockopt(
            socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", len(_DROP_SYN), place)
        )

    def close(self) -> None:
        """Give this process's descriptor back; the owner removes the file of a Unix socket."""
        self._unlink()
        self.socket.close()

    def _unlink(self) -> None:
        if self._file and self._owner == os.getpid() and _identify(self._place) == self._file:
            os.unlink(self._place)
            self._file = None


def open_listeners(addresses: list[Address]) -> list[Listener]:
    """Listen on every address, or on none: raises ListenError that names the one that failed."""
    with contextlib.ExitStack() as opened:
        listeners = []
        for address in addresses:
            try:
                for listener in _open(address):
                    opened.callback(listener.close)
                    listeners.append(listener)
            except (OSError, UnicodeError) as error:
                reason = getattr(error, "strerror", None) or error
                raise ListenError(f"cannot listen on {address.text}: {reason}") from None
        opened.pop_all()
    return listeners


def _open(address: Address) -> list[Listener]:
    if isinstance(address, UnixAddress):
        return [Listener(address, _open_unix(address))]
    if address.host is None:
        return [Listener(address, _open_dual_stack(address))]
    return _open_tcp(address, address.host)


def _open_tcp(address: TCPAddress, host: str) -> list[Listener]:
    found = socket.getaddrinfo(host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    port = address.port
    listeners: list[Listener] = []
    with contextlib.ExitStack() as opened:
        for family, kind, protocol, _, place in dict.fromkeys(found):
            listening = socket.socket(family, kind, protocol)
            opened.callback(listening.close)
            if family == socket.AF_INET6:
                listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            _listen_tcp(listening, (place[0], port, *place[2:]), address.backlog)
            port = listening.getsockname()[1]  # port 0: one for all that the name resolves to
            listeners.append(Listener(address, listening))
        opened.pop_all()
    return listeners


def _open_dual_stack(address: TCPAddress) -> socket.socket:
    if not socket.has_dualstack_ipv6():
        listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        place: tuple[str, int] = ("0.0.0.0", address.port)
    else:
        listening = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
        listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        place = ("::", address.port)
    with contextlib.ExitStack() as opened:
        opened.callback(listening.close)
        _listen_tcp(listening, place, address.backlog)
        opened.pop_all()
    return listening


def _listen_tcp(listening: socket.socket, place: tuple[object, ...], backlog: int) -> None:
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    for level, option, value in _TCP_OPTIONS:
        listening.setsockopt(level, option, value)
    listening.bind(place)
    listening.listen(backlog)
    listening.setblocking(False)


def _open_unix(address: UnixAddress) -> socket.socket:
    """Bind beside the path and rename over it, so that it is never there with a wrong mode.

    The folder is locked meanwhile, so that of two servers starting at once one sees the other.
    """
    path = address.path
    folder = os.path.dirname(path) or "."
    with contextlib.ExitStack() as opened:
        locked = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        opened.callback(os.close, locked)
        fcntl.flock(locked, fcntl.LOCK_EX)
        if os.path.isdir(f"/proc/self/fd/{locked}"):
            folder = f"/proc/self/fd/{locked}"  # short, whatever the length of the path
        beside = f"{folder}/.forkserve-{os.getpid()}"
        _refuse_occupied(path)
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with contextlib.ExitStack() as failed:
            failed.callback(listening.close)
            os.fchmod(listening.fileno(), 0o600 & address.mode)
            _remove(beside)
            listening.bind(beside)
            failed.callback(_remove, beside)
            os.chmod(beside, address.mode)
            listening.listen(address.backlog)
            listening.setblocking(False)
            os.rename(beside, path)
            failed.pop_all()
    return listening


def _refuse_occupied(path: str) -> None:
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise OSError(errno.EEXIST, "the path exists and is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return  # stale: whoever listened is gone
        except BlockingIOError:
            pass  # its queue is full
    raise OSError(errno.EADDRINUSE, "another server is listening there")


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def _identify(path: str) -> tuple[int, int] | None:
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino
