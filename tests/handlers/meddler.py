"""Meddle with what a server shares, as no handler should, and fail out of sight."""

import socket
import socketserver
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import forkserve


class Stream(forkserve.StreamHandler):
    """Echo lines; `close` and `shut` do that to the listening socket."""

    def handle(self) -> None:
        """Act on each line."""
        for line in self.rfile:
            meddle(line, self.server)
            self.connection.send_all(line)


class Datagram(forkserve.DatagramHandler):
    """Echo datagrams; `close` and `shut` do that to the socket."""

    def handle(self) -> None:
        """Answer, then act."""
        self.datagram.reply(self.datagram.data)
        meddle(self.datagram.data, self.server)


def meddle(line: bytes, server: Any) -> None:
    """Do what the line says to the socket that all processes share."""
    if line.strip() == b"close":
        server.socket.close()
    elif line.strip() == b"shut":
        server.socket.shutdown(socket.SHUT_RD)


class ReadAndFail(socketserver.StreamRequestHandler):
    """Read to the end, then fail for a reason that is not the client's."""

    def handle(self) -> None:
        """Open what is not there."""
        self.rfile.read()
        with open("/nowhere/at/all"):
            pass


class Pooled(socketserver.TCPServer):
    """Processes requests in threads of its own."""

    pool = ThreadPoolExecutor(2)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Hand the request on."""
        self.pool.submit(self.process, request, client_address)

    def process(self, request: Any, client_address: Any) -> None:
        """Be ThreadingMixIn.process_request_thread."""
        try:
            self.finish_request(request, client_address)
        except Exception:
            self.handle_error(request, client_address)
        finally:
            self.shutdown_request(request)


class Wrapped(socketserver.TCPServer):
    """A constructor that asks its socket for its name, as those do that wrap it."""

    def __init__(self, address: tuple[str, int]) -> None:
        super().__init__(address, ReadAndFail)
        self.name = self.socket.getsockname()


def failing() -> socketserver.TCPServer:
    """Make a server whose handler fails."""
    return socketserver.TCPServer(("127.0.0.1", 0), ReadAndFail)


def pooled() -> socketserver.TCPServer:
    """Make a server with threads of its own, which it leaves behind."""
    return Pooled(("127.0.0.1", 0), ReadAndFail)


def with_a_thread() -> socketserver.TCPServer:
    """Start a thread that never ends, and make a server."""
    threading.Thread(target=threading.Event().wait).start()
    return failing()
