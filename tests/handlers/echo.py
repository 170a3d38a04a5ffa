"""Send back whatever arrives, once for each kind of handler."""

import socketserver

import forkserve


class Stream(forkserve.StreamHandler):
    """Echo through the connection."""

    def handle(self) -> None:
        """Send back each piece as it comes."""
        while data := self.connection.recv(65536):
            self.connection.send_all(data)


class Files(forkserve.StreamHandler):
    """Echo through the file objects."""

    def handle(self) -> None:
        """Send back each line as it comes."""
        for line in self.rfile:
            self.wfile.write(line)


def function(connection: forkserve.Connection) -> None:
    """Echo through the socket's own methods."""
    while data := connection.recv(65536):
        connection.sendall(data)


class Base(socketserver.BaseRequestHandler):
    """Echo as written for `socketserver`."""

    def handle(self) -> None:
        """Send back each piece as it comes."""
        while data := self.request.recv(65536):
            self.request.sendall(data)


class StreamRequest(socketserver.StreamRequestHandler):
    """Echo as written for `socketserver`, through its file objects."""

    def handle(self) -> None:
        """Send back each piece as it comes."""
        while data := self.rfile.read1(65536):
            self.wfile.write(data)
