"""Bind the addresses that a user names."""

import contextlib
import errno
import os
import socket
from collections.abc import Callable, Sequence

from forkserve import signals
from forkserve.address import (
    Address,
    InetAddress,
    InheritedAddress,
    TCPAddress,
    UDPAddress,
    UnixAddress,
    UnixgramAddress,
)
from forkserve.datagram import DatagramListener
from forkserve.endpoint import ListenerDied, is_bound
from forkserve.errors import AddressInUse, ListenError, SettingsError
from forkserve.listener import Listener
from forkserve.log import log
from forkserve.unix_path import open_at_path

RETRY = 0.2  # seconds

AnyListener = Listener | DatagramListener

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
_SO_RCVBUFFORCE = 33  # as SO_RCVBUF, but past net.core.rmem_max (socket(7))


def open_listeners(addresses: Sequence[Address]) -> list[AnyListener]:
    """Bind every address, or none: raises ListenError that names the one that failed."""
    with contextlib.ExitStack() as opened:
        listeners = []
        for address in addresses:
            try:
                for listener in _open(address):
                    opened.callback(listener.close)
                    listeners.append(listener)
            except (OSError, UnicodeError) as error:
                raise explain(error, address) from error
        opened.pop_all()
    return listeners


def open_patiently(open_all: Callable[[], list[AnyListener]], retries: int) -> list[AnyListener]:
    """Call what opens listeners, and so many times more while an address is in use.

    Signals are held back; one that ends us ends the wait too. Raises what open_all raises.
    """
    while True:
        try:
            return open_all()
        except AddressInUse:
            if retries == 0 or signals.end_comes_within(RETRY):
                raise
            retries -= 1


def warn_of_short_queue(listeners: Sequence[AnyListener]) -> None:
    """Say so where the system lets fewer clients wait than a listener would."""
    try:
        with open("/proc/sys/net/core/somaxconn") as file:
            most = int(file.read())
    except (OSError, ValueError):
        return
    for listener in listeners:
        backlog = getattr(listener.address, "backlog", 0)
        if backlog > most:
            log.warning(
                "%s: a backlog of %d is more than the system's %d (net.core.somaxconn)",
                listener,
                backlog,
                most,
            )


def refuse_twins(addresses: Sequence[Address]) -> None:
    """Raise SettingsError for a descriptor that is given twice."""
    given = [str(address) for address in addresses if isinstance(address, InheritedAddress)]
    twins = {text for text in given if given.count(text) > 1}
    if twins:
        raise SettingsError(f"address {min(twins)} is given twice")


def revive(listeners: Sequence[AnyListener]) -> None:
    """Listen again where somebody has shut a socket down; raises ListenerDied if that fails."""
    for listener in listeners:
        if not listener.is_listening() and not listener.revive():
            raise ListenerDied(f"cannot listen on {listener.address.text} any more")


def explain(error: OSError | UnicodeError, address: Address) -> ListenError:
    """Return the error that says what is wrong with an address, and who has it if somebody does."""
    reason = getattr(error, "strerror", None) or str(error)
    message = f"cannot listen on {address.text}: {reason}"
    if getattr(error, "errno", None) != errno.EADDRINUSE:
        return ListenError(message)
    if isinstance(address, InetAddress):
        from forkserve.occupant import find_occupant

        message += find_occupant(address.port, is_datagram=address.is_datagram)
    return AddressInUse(message)


def _open(address: Address) -> list[AnyListener]:
    if isinstance(address, InheritedAddress):
        return [_inherit(address)]
    if isinstance(address, UnixAddress):
        return [Listener(address, open_at_path(address))]
    if isinstance(address, UnixgramAddress):
        return [_open_unixgram(address)]
    if address.host is None:
        return [_make(address, _bind_dual_stack(address))]
    return _open_all(address, address.host)


def _make(address: InetAddress, bound: socket.socket) -> AnyListener:
    if isinstance(address, UDPAddress):
        return DatagramListener(address, bound)
    return Listener(address, bound)


def _open_all(address: InetAddress, host: str) -> list[AnyListener]:
    """Bind all that the name resolves to; port 0 is one for all."""
    kind = socket.SOCK_DGRAM if address.is_datagram else socket.SOCK_STREAM
    name = host.encode() if host.isascii() else host  # a str is encoded by 250 kB of modules
    found = socket.getaddrinfo(name, address.port, type=kind, flags=socket.AI_PASSIVE)
    port = address.port
    listeners: list[AnyListener] = []
    with contextlib.ExitStack() as opened:
        for family, _, _, _, place in dict.fromkeys(found):
            bound = socket.socket(family, kind)
            opened.callback(bound.close)
            if family == socket.AF_INET6:
                bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            _bind(bound, address, (place[0], port, *place[2:]))
            port = bound.getsockname()[1]
            listeners.append(_make(address, bound))
        opened.pop_all()
    return listeners


def _bind_dual_stack(address: InetAddress) -> socket.socket:
    kind = socket.SOCK_DGRAM if address.is_datagram else socket.SOCK_STREAM
    if not socket.has_dualstack_ipv6():
        bound = socket.socket(socket.AF_INET, kind)
        place: tuple[str, int] = ("0.0.0.0", address.port)
    else:
        bound = socket.socket(socket.AF_INET6, kind)
        bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        place = ("::", address.port)
    with contextlib.ExitStack() as opened:
        opened.callback(bound.close)
        _bind(bound, address, place)
        opened.pop_all()
    return bound


def _bind(bound: socket.socket, address: InetAddress, place: tuple[object, ...]) -> None:
    if isinstance(address, TCPAddress):
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(place)
        listen(bound, address.backlog)
    else:  # no SO_REUSEADDR: with it a second server could take a UDP port from the first
        _make_room(bound, address)
        bound.bind(place)


def _open_unixgram(address: UnixgramAddress) -> AnyListener:
    bound = open_at_path(address)
    _make_room(bound, address)
    return DatagramListener(address, bound)


def _make_room(bound: socket.socket, address: UDPAddress | UnixgramAddress) -> None:
    """Set how many bytes may wait in the queue; a warning says if the system allows fewer."""
    size = address.receive_buffer
    if size is None:
        return
    try:
        bound.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, size)
    except OSError:  # not without CAP_NET_ADMIN
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
    granted = bound.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2  # doubled (socket(7))
    if granted < size:
        log.warning(
            "%s: a receive_buffer of %d is more than the system's %d (net.core.rmem_max)",
            address,
            size,
            granted,
        )


def listen(bound: socket.socket, backlog: int) -> None:
    """Let clients in, and give their connections sound options."""
    if bound.family != socket.AF_UNIX:
        for level, option, value in _TCP_OPTIONS:
            bound.setsockopt(level, option, value)
    bound.listen(backlog)


def _inherit(address: InheritedAddress) -> AnyListener:
    os.set_inheritable(address.descriptor, False)  # not for the programs that a handler starts
    bound = socket.socket(fileno=address.descriptor)
    with contextlib.ExitStack() as failed:
        failed.callback(bound.detach)  # not ours to close: the message is about it
        listener = _look_at(address, bound)
        failed.pop_all()
    return listener


def _look_at(address: InheritedAddress, bound: socket.socket) -> AnyListener:
    if bound.family not in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX):
        raise OSError(errno.EAFNOSUPPORT, "neither an internet nor a Unix socket")
    if bound.type == socket.SOCK_DGRAM:
        if not is_bound(bound):
            raise OSError(errno.EINVAL, "the socket is not bound")
        return DatagramListener(address, bound, is_owned=False)
    if bound.type != socket.SOCK_STREAM:
        raise OSError(errno.ESOCKTNOSUPPORT, "neither a stream nor a datagram socket")
    if not bound.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise OSError(errno.EINVAL, "the socket does not listen")
    return Listener(address, bound, is_owned=False)
