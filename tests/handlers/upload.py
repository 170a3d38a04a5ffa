"""Answer before everything has been read, as servers that refuse a request do."""

import socketserver

import forkserve

ANSWER = b"refused: too large\n" + b"." * 4096


class Refuse(forkserve.StreamHandler):
    """Read one line of whatever comes, answer, leave."""

    def handle(self) -> None:
        """Answer and leave the rest unread."""
        self.connection.recv(20)
        self.connection.send_all(ANSWER)


class OldRefuse(socketserver.BaseRequestHandler):
    """Do the same as a handler for `socketserver`."""

    def handle(self) -> None:
        """Answer and leave the rest unread."""
        self.request.recv(20)
        self.request.sendall(ANSWER)
