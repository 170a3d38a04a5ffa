"""A datagram, and the socket it comes from."""

import contextlib
import errno
import socket
import struct
from _socket import MSG_DONTWAIT, MSG_TRUNC
from typing import TYPE_CHECKING

from forkserve.address import DEFAULT_SIZE, Address
from forkserve.connection import Connection, plain_ipv4
from forkserve.endpoint import Endpoint, ListenerDied
from forkserve.log import Seldom, log

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from forkserve.connection import Peer

    Ancillary = list[tuple[int, int, bytes]]

# recvmsg(2), udp(7), unix(7): news of an answer that did not arrive, each told once.
_AN_ANSWER_FAILED = frozenset(
    {
        errno.ECONNREFUSED,
        errno.ECONNRESET,
        errno.EHOSTUNREACH,
        errno.EHOSTDOWN,
        errno.ENETUNREACH,
        errno.ENETDOWN,
        errno.EMSGSIZE,
        errno.EPERM,
        errno.EPROTO,
    }
)
_SEND_TIMEOUT = struct.pack("ll", 1, 0)  # a peer that does not read must not hold us up

_IP_PKTINFO = 8
_IPV6_RECVPKTINFO, _IPV6_PKTINFO = 49, 50
_SO_MEMINFO, _MEMINFO = 55, struct.Struct("9I")  # sock_diag(7): the last one is SK_MEMINFO_DROPS
_DROP_ALL = ((0x06, 0, 0, 0),)


class Unconnected:
    """What dispatchers do to a connection, where there is none: it seems to have ended."""

    __slots__ = ()

    at_end = True
    is_idle = False
    _buffers = None

    def has_timeout(self) -> bool:
        """Say no: a timeout that a handler meets is not ours."""
        return False

    def interrupt(self) -> None:
        """Do nothing: no handler waits for more."""

    def end_if_idle(self) -> None:
        """Do nothing: it is never idle."""

    def shutdown(self, how: int, /) -> None:
        """Do nothing: there is no peer that waits for our end."""

    def close(self) -> None:
        """Do nothing: there is nothing to close."""


class Datagram(Unconnected):
    """One datagram: ``data``, and who sent it. A datagram without a byte is one all the same.

    ``truncated`` says that it was longer than the socket's ``max_size``, and the rest is lost.
    """

    __slots__ = ("_failure", "address", "data", "listener")

    truncated = False
    _source: "Ancillary | None" = None

    listener: "DatagramListener"
    data: bytes
    address: "Peer | None"
    _failure: OSError  # what reply() has met

    @property
    def peer(self) -> "Peer | None":
        """The sender's address as the socket module gives it, None if a Unix socket has none."""
        return plain_ipv4(self.address) if self.address else None

    @property
    def local(self) -> "Peer":
        """The address that the socket is bound to: (host, port), or the configured path."""
        return plain_ipv4(self.listener.name)

    def reply(self, data: "Buffer") -> None:
        """Send one datagram to the sender, from the address it has asked.

        May block for a second where a Unix peer does not read. Raises OSError if it cannot be
        sent; a handler need not catch that: it ends with this datagram.
        """
        try:
            if self.address is None:
                raise OSError(errno.EDESTADDRREQ, "the sender's socket has no address")
            if self._source is None:
                self.listener.sendto(data, self.address)
            else:
                self._reply_from_source(data, self.address)
        except OSError as error:
            self._failure = error
            raise

    def _reply_from_source(self, data: "Buffer", address: "Peer") -> None:
        try:
            self.listener.socket.sendmsg([data], self._source or [], 0, address)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EADDRNOTAVAIL, errno.ENETUNREACH):
                raise
            self.listener.sendto(data, address)  # it was asked at a broadcast address

    def is_lost(self, error: OSError) -> bool:
        """Whether this is what reply() has met on its way to the peer."""
        return error is getattr(self, "_failure", None) and error.errno != errno.EMSGSIZE


class CheckedDatagram(Datagram):
    """One that may be cut, or whose answer must leave from the address that was asked."""

    __slots__ = ("_source", "truncated")


Request = Connection | Datagram  # what is dispatched, as ``socketserver`` calls it


class DatagramListener(Endpoint):
    """A bound datagram socket: what it hands on are datagrams.

    It blocks where a handler sends, and does not where we receive.
    """

    is_datagram = True

    def __init__(self, address: Address, bound: socket.socket, *, is_owned: bool = True) -> None:
        super().__init__(address, bound, is_owned=is_owned)
        if is_owned:  # else it is left as it is
            bound.setblocking(True)
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _SEND_TIMEOUT)
        self.max_size: int = getattr(address, "max_size", DEFAULT_SIZE)
        self.sendto = bound.sendto
        self._ancillary_room = _ask_for_source(bound)
        # recvfrom is cheaper, and enough where nothing can be cut and answers have one source.
        is_plain = not (self.path or self._ancillary_room or self.max_size < DEFAULT_SIZE)
        self._recvfrom = bound.recvfrom if is_plain else None
        self._recvmsg = bound.recvmsg
        self._drops_before = self._drops_said = _read_drops(bound)
        self._drops = Seldom()

    def accept(self) -> Datagram | None:
        """Return the next datagram, or None if the queue is empty.

        Raises ListenerDied, or OSError where the machine is at a limit.
        """
        try:
            if self._recvfrom is None:
                return self._receive_checked()
            datagram = Datagram()
            datagram.data, datagram.address = self._recvfrom(DEFAULT_SIZE, MSG_DONTWAIT)
            datagram.listener = self
        except BlockingIOError:
            return None
        except TimeoutError:
            self.socket.settimeout(None)  # a handler has set it, on the socket of all
            return None
        except OSError as error:
            self._accept_after(error)
            return None
        return datagram

    def _receive_checked(self) -> Datagram:
        datagram = CheckedDatagram()
        datagram.data, ancillary, flags, datagram.address = self._recvmsg(
            self.max_size, self._ancillary_room, MSG_DONTWAIT
        )
        datagram.truncated = flags & MSG_TRUNC != 0
        datagram._source = _answer_from(ancillary)
        datagram.listener = self
        return datagram

    def _accept_after(self, error: OSError) -> None:
        if error.errno in (errno.EBADF, errno.ENOTSOCK):
            raise ListenerDied(f"{self} was closed by somebody else: {error.strerror}")
        if error.errno not in _AN_ANSWER_FAILED:
            raise error

    # -- what the queue had no room for

    def count_drops(self) -> int:
        """Return how many datagrams the kernel has thrown away because the queue was full."""
        if self.is_quiesced():  # what comes then is turned away, and counted by the kernel too
            return self._drops_said
        return _read_drops(self.socket) - self._drops_before

    def look_for_drops(self, now: float) -> None:
        """Say once in a while how many there are, if there are more."""
        if self._drops.is_due(now):
            self._say_drops()

    def _say_drops(self) -> None:
        drops = self.count_drops()
        if drops > self._drops_said:
            self._drops_said = drops
            log.warning(
                "%s: %d datagrams found the queue full and are lost (?receive_buffer=BYTES)",
                self,
                drops,
            )

    # -- the end, as of a listener of connections

    def is_listening(self) -> bool:
        """Whether the socket can still receive: a UDP socket can also when it is shut down."""
        if self.fileno() < 0:
            return False
        with contextlib.suppress(OSError):
            while True:  # news that a handler has asked for by IP_RECVERR keeps it ready (ip(7))
                self.socket.recvmsg(0, 4096, socket.MSG_ERRQUEUE | MSG_DONTWAIT)
        return not self.path or not self._is_shut()

    def revive(self) -> bool:
        """Bind again a Unix socket that somebody shut down; whether that worked."""
        if self.path and not self.is_listening():
            self._bind_again()
        return self.is_listening()

    def _let_nothing_in(self) -> None:
        self._say_drops()
        super()._let_nothing_in()

    def _close_port(self) -> None:
        self._attach_filter(_DROP_ALL)

    def refuse(self) -> None:
        """Do nothing: whoever sends now learns it when the last process has closed the socket."""


def _ask_for_source(bound: socket.socket) -> int:
    """Have each datagram say to which address it came, if that may be several (ip(7), ipv6(7)).

    Returns the room that takes.
    """
    if bound.family == socket.AF_INET and bound.getsockname()[0] == "0.0.0.0":
        bound.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        return socket.CMSG_SPACE(12)
    if bound.family == socket.AF_INET6 and bound.getsockname()[0] == "::":
        bound.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVPKTINFO, 1)
        return socket.CMSG_SPACE(20)
    return 0


def _answer_from(ancillary: "Ancillary") -> "Ancillary | None":
    """Return what makes the answer leave from the address that was asked.

    No interface is named: the route is the kernel's business. From a multicast address nothing can
    be sent, so there the kernel chooses.
    """
    for level, kind, info in ancillary:
        if (level, kind) == (socket.IPPROTO_IP, _IP_PKTINFO):
            return [(level, kind, struct.pack("i4s4x", 0, info[4:8]))]
        if (level, kind) == (socket.IPPROTO_IPV6, _IPV6_PKTINFO) and info[0] != 0xFF:
            return [(level, kind, info[:16] + bytes(4))]
    return None


def _read_drops(bound: socket.socket) -> int:
    try:
        return int(_MEMINFO.unpack(bound.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 36))[8])
    except (OSError, struct.error):
        return 0  # an older kernel counts more or fewer things
