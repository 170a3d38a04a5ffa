"""One accepted connection: the socket itself, with what people always end up writing on top."""

import contextlib
import os
import select
import socket
from _socket import MSG_MORE, SHUT_RD, SHUT_RDWR, SHUT_WR
from _socket import socket as Descriptor  # the C type: socket.socket adds 2.3 us to each accept
from typing import IO, TYPE_CHECKING, Any

from forkserve.errors import IncompleteRead, MessageTooLong

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Buffer

    from forkserve.datagram import Request
    from forkserve.listener import Listener

    Peer = tuple[Any, ...] | str

RECEIVE_SIZE = 65536
WRITE_SIZE = 8192
LINE_LIMIT = 1 << 20

_recv = Descriptor.recv
_sendall = Descriptor.sendall


class Buffers:
    """What was received and not yet read, and what was written and not yet sent."""

    __slots__ = ("input", "output")

    def __init__(self) -> None:
        self.input = bytearray()
        self.output = bytearray()


class Connection(Descriptor):
    """A stream socket that a handler reads and writes, blocking.

    Made by a Listener, which fills in the slots; owned by run_handler, which closes it.
    Not for two threads at a time; but one may read while another calls the socket's own send(), and
    interrupt() may come from any.
    """

    __slots__ = ("_borrowed", "_buffers", "address", "at_end", "is_idle", "listener")

    listener: "Listener"
    address: "Peer"
    at_end: bool
    is_idle: bool
    _buffers: Buffers | None
    _borrowed: "_Borrowed | None"

    # -- who is at the two ends

    @property
    def peer(self) -> "Peer":
        """The peer's address as the socket module gives it; an IPv4 peer is always plain IPv4."""
        return plain_ipv4(self.address)

    @property
    def local(self) -> "Peer":
        """The address the peer connected to: (host, port), or the configured path."""
        return self.listener.path or plain_ipv4(self.getsockname())

    # -- reading

    def recv(self, size: int = RECEIVE_SIZE, flags: int = 0, /) -> bytes:
        """Return up to size bytes as soon as there are some, b"" at the end of the input."""
        if self._buffers is not None:
            return self._recv_buffered(self._buffers, size, flags)
        data = _recv(self, size, flags)
        if not data and size:
            self.at_end = True
        return data

    def recv_into(self, buffer: "Buffer", nbytes: int = 0, flags: int = 0, /) -> int:
        """Receive into a writable buffer and return how much, 0 at the end of the input."""
        view = memoryview(buffer).cast("B")
        size = nbytes or len(view)
        if self._buffers is not None:
            data = self._recv_buffered(self._buffers, size, flags)
            view[: len(data)] = data
            return len(data)
        count = super().recv_into(view, size, flags)
        if not count and size:
            self.at_end = True
        return count

    def recv_exactly(self, size: int) -> bytes:
        """Block until size bytes are there and return them.

        Raises IncompleteRead if the peer ends the connection before.
        """
        if size < 0:
            raise ValueError(f"negative size {size} to receive")
        received = self.buffers().input
        while len(received) < size:
            if not self.receive_more(min(RECEIVE_SIZE, size - len(received))):
                raise IncompleteRead(_take(received, len(received)), f"a message of {size}")
        return _take(received, size)

    def recv_until(self, separator: bytes, limit: int = LINE_LIMIT) -> bytes:
        """Block until the separator and return what comes before it, and it.

        Raises MessageTooLong if that is over limit bytes, IncompleteRead if the peer ends the
        connection before the separator. What comes after it stays for the next read.
        """
        if not separator:
            raise ValueError("an empty separator ends no message")
        received = self.buffers().input
        searched = 0
        while (found := received.find(separator, searched)) < 0:
            searched = max(0, len(received) - len(separator) + 1)
            if len(received) >= limit:
                raise MessageTooLong(f"no {separator!r} in the first {limit} bytes")
            if not self.receive_more(RECEIVE_SIZE):
                raise IncompleteRead(
                    _take(received, len(received)), f"a message up to {separator!r}"
                )
        end = found + len(separator)
        if end > limit:
            raise MessageTooLong(f"no {separator!r} in the first {limit} bytes")
        return _take(received, end)

    def _recv_buffered(self, buffers: Buffers, size: int, flags: int) -> bytes:
        if buffers.input and size:
            if flags & socket.MSG_PEEK:
                return bytes(buffers.input[:size])
            return _take(buffers.input, size)
        if buffers.output:
            self.flush()
        data = _recv(self, size, flags)
        if not data and size:
            self.at_end = True
        return data

    def buffers(self) -> Buffers:
        """Return the buffers that every kind of read and write shares, made when first used."""
        if self._buffers is None:
            self._buffers = Buffers()
        return self._buffers

    def receive_more(self, size: int) -> bool:
        """Block until there is more input in the buffer; False at its end.

        What was written is sent first: the peer may be waiting for it.
        """
        buffers = self.buffers()
        if buffers.output:
            self.flush()
        data = _recv(self, size)
        if not data:
            self.at_end = True
            return False
        buffers.input += data
        return True

    # -- writing

    def send_all(self, data: "Buffer") -> None:
        """Block until all of the data is with the kernel."""
        if self._buffers is not None and self._buffers.output:
            self.flush()
        _sendall(self, data)

    def sendall(self, data: "Buffer", flags: int = 0, /) -> None:
        """Block until all of the data is with the kernel; flags as for send(2)."""
        if self._buffers is not None and self._buffers.output:
            self.flush()
        _sendall(self, data, flags)

    def send_last(self, data: "Buffer") -> None:
        """Send the last bytes of the connection: they leave with its end, in one segment.

        Until the handler returns the kernel may hold them, 0.2 s at most (MSG_MORE, tcp(7)).
        """
        if self._buffers is not None and self._buffers.output:
            self.flush()
        _sendall(self, data, MSG_MORE)

    def write(self, data: "Buffer") -> int:
        """Keep the data until 8 KiB are there, a read must wait, or flush(); return its size."""
        output = self.buffers().output
        size = memoryview(data).nbytes
        if len(output) + size <= WRITE_SIZE:
            output += data
        else:
            self.flush()
            _sendall(self, data)
        return size

    def flush(self) -> None:
        """Send what was written and not yet sent."""
        self._send_output(0)

    def flush_last(self) -> None:
        """Send what was written as the last bytes of the connection (see send_last)."""
        self._send_output(MSG_MORE)

    def _send_output(self, flags: int) -> None:
        if self._buffers is not None and self._buffers.output:
            output = bytes(self._buffers.output)
            self._buffers.output.clear()  # gone even if the peer is: never sent twice
            _sendall(self, output, flags)

    def send_file(self, file: IO[bytes], offset: int = 0, count: int | None = None) -> int:
        """Send a file's bytes without copying them through Python; return how many (sendfile(2)).

        From offset to the file's end, or count bytes.
        """
        self.flush()
        if self.gettimeout() is not None:
            return self._send_file_by_copy(file, offset, count)
        sent = 0
        while count is None or sent < count:
            size = 1 << 30 if count is None else count - sent
            done = os.sendfile(self.fileno(), file.fileno(), offset + sent, size)
            if not done:
                break
            sent += done
        return sent

    def _send_file_by_copy(self, file: IO[bytes], offset: int, count: int | None) -> int:
        file.seek(offset)
        sent = 0
        while data := file.read(RECEIVE_SIZE if count is None else min(RECEIVE_SIZE, count - sent)):
            _sendall(self, data)
            sent += len(data)
        return sent

    def shutdown_write(self) -> None:
        """Tell the peer that nothing more will come; reading goes on."""
        self.flush()
        self.shutdown(SHUT_WR)

    # -- the end

    def idle(self) -> "Idle":
        """Mark a block in which nothing is lost if the connection ends: a stop ends it at once.

        The read in the block then returns b"", as if the peer had closed. What was written is
        sent first. A message of which a part has been read already is not interrupted.
        """
        return Idle(self)

    def end_if_idle(self) -> None:
        """End the input of a connection that waits for its next message; from any thread."""
        if self.is_idle:
            with contextlib.suppress(OSError):
                self.shutdown(SHUT_RD)

    def extend_timeout(self, seconds: float) -> None:
        """Last so many seconds more from now, if the server has a --connection-timeout.

        In the thread that serves the connection; may be called again and again. Raises ValueError
        for what is no length of time.
        """
        if not seconds >= 0:
            raise ValueError(f"{seconds!r} is not a number of seconds")
        self.listener.server.extend_timeout(self, seconds)

    def interrupt(self) -> None:
        """Make every read and write of this connection end now; from any thread or a signal."""
        with contextlib.suppress(OSError):
            self.shutdown(SHUT_RDWR)

    def is_lost(self, error: OSError) -> bool:
        """Whether this connection is dead, so that an error is its own, not some other socket's."""
        return self.fileno() < 0 or is_hung_up(self)

    def has_timeout(self) -> bool:
        """Whether a read or write may have ended because of settimeout()."""
        return self.gettimeout() is not None

    def settimeout(self, value: float | None, /) -> None:
        """Let each read and write block for so many seconds at most; None: as long as it takes."""
        super().settimeout(value)
        if self._borrowed is not None:
            socket.socket.settimeout(self._borrowed, value)

    def close(self) -> None:
        """Close the descriptor; what was written and not flushed is dropped."""
        if self._borrowed is not None:
            socket.socket.detach(self._borrowed)
        super().close()

    # -- for code that wants a socket or a file

    @property
    def socket(self) -> socket.socket:
        """A ``socket.socket`` on the same descriptor, valid until the connection is closed."""
        if self._borrowed is None:
            self._borrowed = _Borrowed(self)
        return self._borrowed

    def makefile(
        self, mode: str = "r", buffering: int | None = None, **text_options: Any
    ) -> IO[Any]:
        """Return a file object as ``socket.socket.makefile`` does; its reads share our buffer."""
        from forkserve.streams import open_connection

        return open_connection(self, mode, buffering, **text_options)


class Idle:
    """The block of ``with connection.idle():``."""

    __slots__ = ("_connection",)

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        connection = self._connection
        if connection._buffers is not None and connection._buffers.input:
            return  # the next message, or its beginning, is there: nobody waits
        connection.flush()
        connection.is_idle = True
        if connection.listener.server.stopping:  # looked at second: a stop in between sees us idle
            connection.end_if_idle()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: "TracebackType | None",
    ) -> None:
        self._connection.is_idle = False


class _Borrowed(socket.socket):
    """A connection's descriptor as a ``socket.socket``; closing it closes the connection."""

    __slots__ = ("_connection",)

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection.family, connection.type, connection.proto, connection.fileno())
        self._connection = connection

        super().settimeout(connection.gettimeout())

    def settimeout(self, value: float | None) -> None:
        self._connection.settimeout(value)

    def setblocking(self, flag: bool) -> None:
        self.settimeout(None if flag else 0.0)

    def dup(self) -> socket.socket:  # type: ignore[override]
        """Return a socket on a descriptor of its own."""
        twin = socket.socket(self.family, self.type, self.proto, os.dup(self.fileno()))
        twin.settimeout(self.gettimeout())
        return twin

    def detach(self) -> int:
        """Give the descriptor away for good, as TLS wrappers want it: the connection ends."""
        Descriptor.detach(self._connection)
        return super().detach()

    def _real_close(self) -> None:
        socket.socket.detach(self)
        self._connection.close()


def close_quietly(connection: "Request") -> None:
    """Close a connection whose descriptor the handler may have closed behind our back."""
    try:  # noqa: SIM105 - a child forked for one connection pays for what contextlib touches
        connection.close()
    except OSError:
        pass


def is_hung_up(connection: Descriptor) -> bool:
    """Whether both sides have ended, or one of them by a reset."""
    look = select.poll()
    look.register(connection.fileno(), 0)  # POLLHUP and POLLERR are always reported (poll(2))
    return bool(look.poll(0))


def plain_ipv4(address: "Peer") -> "Peer":
    """Return an IPv4 address that came over a dual-stack socket as plain IPv4."""
    if isinstance(address, tuple) and len(address) == 4 and str(address[0]).startswith("::ffff:"):
        return address[0][7:], address[1]
    return address


def _take(received: bytearray, size: int) -> bytes:
    data = bytes(received[:size])
    del received[:size]
    return data
