"""Echo, and say which version of the code does so: what the tests of reload deploy."""

import socketserver

import forkserve


class Echo(forkserve.StreamHandler):
    """Echo as one version of a handler."""

    version = 0

    def handle(self) -> None:
        """Send back each piece as it comes, or the version if asked."""
        while data := self.connection.recv(65536):
            self.connection.send_all(_answer(data, self.version))


class StockEcho(socketserver.StreamRequestHandler):
    """Echo as one version of a handler written for `socketserver`."""

    version = 0

    def handle(self) -> None:
        """Send back each piece as it comes, or the version if asked."""
        while data := self.rfile.read1(65536):
            self.wfile.write(_answer(data, self.version))


def _answer(data: bytes, version: int) -> bytes:
    return f"{version}\n".encode() if data == b"version\n" else data
