"""Stock handlers that set what `socketserver` lets a class set."""

import socket
import socketserver


class Impatient(socketserver.StreamRequestHandler):
    """Waits a tenth of a second for a line."""

    timeout = 0.1

    def handle(self) -> None:
        """Send the line back, or leave."""
        self.wfile.write(self.rfile.readline())


class Prompt(socketserver.StreamRequestHandler):
    """Tells whether its answers are held back."""

    disable_nagle_algorithm = True

    def handle(self) -> None:
        """Answer with what the kernel says, 1 on a socket that has no such thing."""
        flag = 1
        if self.request.family != socket.AF_UNIX:
            flag = self.request.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        self.wfile.write(b"%d\n" % bool(flag))


class Unbuffered(socketserver.StreamRequestHandler):
    """Reads not one byte more than it asks for."""

    rbufsize = 0

    def handle(self) -> None:
        """Read a byte as a file, and what is left from the socket."""
        first = self.rfile.read(1)
        self.wfile.write(first + b"," + self.request.recv(100))


class Buffered(socketserver.StreamRequestHandler):
    """Writes when it has written enough, or is done."""

    wbufsize = 1 << 16

    def handle(self) -> None:
        """Write, and wait for the client, which must not get it before its own end."""
        self.wfile.write(b"kept")
        self.rfile.read()
        self.wfile.write(b" and sent\n")
