"""A connection as the files that handlers know: rfile, wfile and makefile."""

import io
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Any

from forkserve.connection import RECEIVE_SIZE, Connection

if TYPE_CHECKING:
    from typing_extensions import Buffer


class Reader:
    """A connection's input as a binary file: a third of the cost of ``io.BufferedReader``."""

    __slots__ = ("_connection",)

    closed = False

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def read(self, size: int | None = -1) -> bytes:
        """Block until size bytes or the end of the input; all of it without a size."""
        connection = self._connection
        received = connection.buffers().input
        if size is None or size < 0:
            while connection.receive_more(RECEIVE_SIZE):
                pass
            size = len(received)
        while len(received) < size and connection.receive_more(
            min(RECEIVE_SIZE, size - len(received))
        ):
            pass
        data = bytes(received[:size])
        del received[:size]
        return data

    def read1(self, size: int = -1) -> bytes:
        """Return what there is, up to size bytes, waiting only if there is nothing."""
        return self._connection.recv(RECEIVE_SIZE if size < 0 else size)

    def readinto(self, buffer: "Buffer") -> int:
        """Block until the buffer is full or the input ends, and return how much was read."""
        view = memoryview(buffer).cast("B")
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    def readinto1(self, buffer: "Buffer") -> int:
        """Read what there is into the buffer, waiting only if there is nothing."""
        return self._connection.recv_into(buffer)

    def peek(self, size: int = 0) -> bytes:
        """Return what was received already, without taking it; wait if that is nothing."""
        received = self._connection.buffers().input
        if not received:
            self._connection.receive_more(RECEIVE_SIZE)
        return bytes(received)

    def readline(self, limit: int | None = -1) -> bytes:
        r"""Block until a line and return it with its ``\n``; at most limit bytes of it."""
        most = -1 if limit is None else limit
        received = self._connection.buffers().input
        searched = 0
        while (found := received.find(b"\n", searched)) < 0:
            searched = len(received)
            if 0 <= most <= searched or not self._connection.receive_more(RECEIVE_SIZE):
                found = len(received) - 1
                break
        end = found + 1 if most < 0 else min(found + 1, most)
        data = bytes(received[:end])
        del received[:end]
        return data

    def readlines(self, hint: int = -1) -> list[bytes]:
        """Return the lines up to the end of the input, or until hint bytes are read."""
        lines: list[bytes] = []
        size = 0
        for line in self:
            lines.append(line)
            size += len(line)
            if 0 < hint <= size:
                break
        return lines

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        line = self.readline()
        if not line:
            raise StopIteration
        return line

    def fileno(self) -> int:
        """Return the connection's descriptor."""
        return self._connection.fileno()

    def readable(self) -> bool:
        """Yes."""
        return True

    def writable(self) -> bool:
        """No."""
        return False

    def seekable(self) -> bool:
        """No."""
        return False

    def flush(self) -> None:
        """Nothing to do: input has no flush."""

    def close(self) -> None:
        """Nothing to do: whoever serves the connection closes it."""


class Writer:
    """A connection's output as a binary file, buffered up to 8 KiB or the next read that waits."""

    __slots__ = ("_connection",)

    closed = False

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def write(self, data: "Buffer") -> int:
        """Take all of the data; see Connection.write for when it is sent."""
        return self._connection.write(data)

    def writelines(self, lines: Any) -> None:
        """Write each of the lines."""
        for line in lines:
            self._connection.write(line)

    def flush(self) -> None:
        """Send what was written."""
        self._connection.flush()

    def fileno(self) -> int:
        """Return the connection's descriptor."""
        return self._connection.fileno()

    def readable(self) -> bool:
        """No."""
        return False

    def writable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """No."""
        return False

    def close(self) -> None:
        """Send what was written; whoever serves the connection closes it."""
        self._connection.flush()


class _Raw(io.RawIOBase):
    """A connection under the ``io`` module's own buffers."""

    def __init__(self, connection: Connection, *, reads: bool, writes: bool) -> None:
        self._connection = connection
        self._reads = reads
        self._writes = writes

    def readinto(self, buffer: "Buffer") -> int:
        return self._connection.recv_into(buffer)

    def write(self, data: "Buffer") -> int:
        self._connection.send_all(data)
        return memoryview(data).nbytes

    def readable(self) -> bool:
        return self._reads

    def writable(self) -> bool:
        return self._writes

    def fileno(self) -> int:
        return self._connection.fileno()


def open_connection(
    connection: Connection, mode: str, buffering: int | None, **text_options: Any
) -> IO[Any]:
    """Return the file object that ``socket.socket.makefile`` promises for these arguments."""
    if not set(mode) <= {"r", "w", "b"} or not set(mode) & {"r", "w"}:
        raise ValueError(f"invalid mode {mode!r} (only r, w, b allowed)")
    reads, writes = "r" in mode, "w" in mode
    raw = _Raw(connection, reads=reads, writes=writes)
    size = io.DEFAULT_BUFFER_SIZE if buffering is None or buffering < 0 else buffering
    if size == 0:
        if "b" not in mode:
            raise ValueError("unbuffered streams must be binary")
        return raw  # type: ignore[return-value]
    buffer: Any
    if reads and writes:
        buffer = io.BufferedRWPair(raw, raw, size)
    else:
        buffer = io.BufferedReader(raw, size) if reads else io.BufferedWriter(raw, size)
    return buffer if "b" in mode else io.TextIOWrapper(buffer, **text_options)
