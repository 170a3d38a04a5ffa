"""What a leader and its supervisor tell each other: a word, a text, sometimes a socket."""

import contextlib
import socket
import sys
from collections.abc import Sequence
from typing import NamedTuple

_LONGEST = 32768


class Message(NamedTuple):
    """What a leader says.

    ``home`` (it has bound a socket, or uses one that was kept), ``loaded``, ``ready``, ``failed``.
    """

    kind: str
    text: str = ""
    descriptor: int | None = None


class Channel:
    """One end of it; the other end's process has ended when this one reads its end."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end

    def fileno(self) -> int:
        """Return the descriptor to wait on."""
        return self._end.fileno()

    def send(self, kind: str, text: str = "", descriptor: int | None = None) -> None:
        """Tell the other side; nothing happens if it is gone. Blocks if it does not listen."""
        data = f"{kind} {text}".encode("utf-8", "replace")[:_LONGEST]
        with contextlib.suppress(OSError):  # gone, or closed by the code that we have imported
            socket.send_fds(self._end, [data], [] if descriptor is None else [descriptor])

    def receive(self) -> Message | None:
        """Return the next message, or None if there is none yet.

        The caller owns the message's descriptor. Raises EOFError when the other side has ended.
        """
        try:
            # socket.recv_fds() ignores its flags.
            data, ancillary, _, _ = self._end.recvmsg(
                _LONGEST, socket.CMSG_LEN(4), socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return None
        except ConnectionError:
            data, ancillary = b"", []
        if not data:
            raise EOFError
        kind, _, text = data.decode("utf-8", "replace").partition(" ")
        return Message(kind, text, _find_descriptor(ancillary))

    def close(self) -> None:
        """Give this end back."""
        self._end.close()


def _find_descriptor(ancillary: Sequence[tuple[int, int, bytes]]) -> int | None:
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            return int.from_bytes(data[:4], sys.byteorder)
    return None


def open_channel() -> tuple[Channel, Channel]:
    """Return the supervisor's end and the leader's."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return Channel(ours), Channel(theirs)
