"""Put a Unix socket at its path."""

import contextlib
import errno
import fcntl
import os
import socket
import stat

from forkserve.address import UnixAddress, UnixgramAddress


def open_at_path(address: UnixAddress | UnixgramAddress) -> socket.socket:
    """Bind, so that the path is never there with a wrong mode, and no client is refused.

    A listening socket is bound beside the path and renamed over it; one for datagrams at the path,
    which is what a peer sees where an answer comes from. The folder is locked meanwhile, so that of
    two servers starting at once one sees the other.
    """
    path = address.path
    folder = os.path.dirname(path) or "."
    with contextlib.ExitStack() as opened:
        locked = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        opened.callback(os.close, locked)
        fcntl.flock(locked, fcntl.LOCK_EX)
        if os.path.isdir(f"/proc/self/fd/{locked}"):
            folder = f"/proc/self/fd/{locked}"  # short, whatever the length of the path
        _refuse_occupied(path)
        if isinstance(address, UnixAddress):
            return _bind(address, f"{folder}/.forkserve-{os.getpid()}")
        return _bind(address, address.path)


def _bind(address: UnixAddress | UnixgramAddress, place: str) -> socket.socket:
    kind = socket.SOCK_DGRAM if address.is_datagram else socket.SOCK_STREAM
    with contextlib.ExitStack() as failed:
        bound = socket.socket(socket.AF_UNIX, kind)
        failed.callback(bound.close)
        os.fchmod(bound.fileno(), 0o600 & address.mode)
        _remove(place)
        bound.bind(place)
        failed.callback(_remove, place)
        os.chmod(place, address.mode)
        if isinstance(address, UnixAddress):
            bound.listen(address.backlog)
            os.rename(place, address.path)
        failed.pop_all()
    return bound


def identify(path: str) -> tuple[int, int] | None:
    """Return what tells the file at the path from one that may take its place."""
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


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
            return  # stale: whoever had it is gone
        except OSError as error:
            # EAGAIN: its queue is full; EPROTOTYPE: it takes datagrams (connect(2), unix(7))
            if error.errno not in (errno.EAGAIN, errno.EPROTOTYPE):
                raise
    raise OSError(errno.EADDRINUSE, "another server is listening there")


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
