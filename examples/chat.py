"""A chat room: give a nickname, then talk in lines; `/who` tells who is there, `/quit` leaves.

    python3 -m forkserve run examples/chat.py:Chat --mode thread -b tcp://127.0.0.1:9000
    nc 127.0.0.1 9000

The room is in the memory of its process, so it wants `--mode thread`, where all members are in one
process. With `prefork` every worker has a room, and they know nothing of each other; with
`process` everybody has a room to himself; with `iterative` the second member waits until the
first has left. The number of the room is that of its process.
"""

import os
import select
import socket
import threading
from collections.abc import Iterable, Iterator
from time import monotonic

import forkserve

LINE_LIMIT = 1024  # bytes; what is longer becomes several lines
NAME_LIMIT = 20
PATIENCE = 1.0  # seconds that a line waits for members who are far behind


class Chat(forkserve.StreamHandler):
    """One member of the room; the thread of each reads from him, and sends what he says to all."""

    name = ""
    farewell = "has left"

    def handle(self) -> None:
        ROOM.tell(self, f"* this is room {os.getpid()}: what is your nickname?")
        for line in self.lines():
            if line == "/quit":
                return
            if not self.name:
                ROOM.enter(self, line)
            elif line == "/who":
                ROOM.tell(self, f"* here: {', '.join(ROOM.names())}")
            elif line.startswith("/"):
                ROOM.tell(self, "* there is /who and /quit")
            elif line:
                ROOM.say(f"{self.name}: {line}")

    def finish(self) -> None:
        ROOM.leave(self)
        if self.server.stopping:
            ROOM.tell(self, "* the server is going down")

    def lines(self) -> Iterator[str]:
        """Yield what the member says, until he ends or the server does."""
        while not self.server.stopping:
            with self.connection.idle():  # a stop need not wait for a member who is silent
                line = self.rfile.readline(LINE_LIMIT)
            if not line:
                return
            # Without what could write all over another member's terminal.
            yield "".join(filter(str.isprintable, line.decode(errors="replace"))).strip()

    def send(self, line: bytes, deadline: float) -> None:
        """Send a line, or give the member up if the kernel has no room for it by the deadline.

        Called with the room locked. The kernel's buffer is the member's outbox: who lets it fill
        up is far behind, and must not hold up the others.
        """
        while line:
            try:
                line = line[self.connection.send(line, socket.MSG_DONTWAIT) :]
            except BlockingIOError:
                if not self.has_room_by(deadline):
                    self.farewell = "reads too slowly and is out"
                    self.connection.interrupt()  # his own thread finds the end, and leaves
                    return
            except OSError:
                return  # gone, which his own thread is about to find out

    def has_room_by(self, deadline: float) -> bool:
        """Wait until something can be sent, and tell whether it can."""
        room = select.poll()
        room.register(self.connection, select.POLLOUT)
        return bool(room.poll(max(0.0, deadline - monotonic()) * 1000))


class Room:
    """Who is there; everything is sent under its lock, so that all see it in the same order."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._members: dict[str, Chat] = {}

    def enter(self, newcomer: Chat, name: str) -> None:
        """Let the newcomer in, or say why not."""
        with self._lock:
            if not name or len(name) > NAME_LIMIT or " " in name or name.startswith("/"):
                _send([newcomer], f"* one word of up to {NAME_LIMIT} letters, please")
            elif name in self._members:
                _send([newcomer], f"* {name} is taken; another one, please")
            else:
                newcomer.name = name
                self._members[name] = newcomer
                _send(self._members.values(), f"* {name} has come")

    def leave(self, member: Chat) -> None:
        """Take the member out, and tell the others."""
        with self._lock:
            if self._members.pop(member.name, None):
                _send(self._members.values(), f"* {member.name} {member.farewell}")

    def say(self, text: str) -> None:
        """Send a line to all."""
        with self._lock:
            _send(self._members.values(), text)

    def tell(self, member: Chat, text: str) -> None:
        """Send a line to one."""
        with self._lock:
            _send([member], text)

    def names(self) -> list[str]:
        """Return who is there, in the order in which they came."""
        with self._lock:
            return list(self._members)


def _send(members: Iterable[Chat], text: str) -> None:
    deadline = monotonic() + PATIENCE  # for all of them together, not for each
    line = f"{text}\n".encode()
    for member in members:
        member.send(line, deadline)


ROOM = Room()
