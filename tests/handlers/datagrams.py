"""Answer datagrams, once for each kind of handler, and make the server objects that do."""

import json
import os
import socketserver
from collections.abc import Callable
from typing import Any

import forkserve
from tests.handlers.acts import ACTS

Reply = Callable[[bytes], Any]

_acted: list[None] = []  # as long as the number of datagrams that this process has acted on


def _act(subject: Any, data: bytes, reply: Reply) -> bytes:
    """Do what the datagram says and return the answer; "announce" is answered twice."""
    _acted.append(None)
    name, *arguments = data.decode().split()
    if name == "announce":
        reply(b"started")
        name, *arguments = arguments
    if name == "big":
        return b"x" * int(arguments[0])
    if name in _OF_THE_HANDLER:
        return json.dumps(_OF_THE_HANDLER[name](subject)).encode()
    return str(ACTS[name](*arguments)).encode()


def _describe(subject: Any) -> dict[str, Any]:
    """Return what a handler sees of its datagram and its server."""
    datagram = getattr(subject, "datagram", subject)
    server = getattr(subject, "server", None)
    seen = {
        "client_address": getattr(subject, "client_address", None),
        "peer": getattr(datagram, "peer", None),
        "local": getattr(datagram, "local", None),
        "truncated": getattr(datagram, "truncated", None),
    }
    if server is not None:
        seen["server_address"] = server.server_address
        seen["stopping"] = server.stopping
        seen["socket"] = server.socket.getsockname()
    return seen


_OF_THE_HANDLER: dict[str, Callable[[Any], Any]] = {
    "describe": _describe,
    "acted": lambda subject: len(_acted),
    "drops": lambda subject: subject.server.count_drops(),
    "stopping": lambda subject: subject.server.stopping,
    "buffer": lambda subject: subject.server.socket.getsockopt(1, 8),  # SO_RCVBUF
}


# -- send back what comes


class Echo(forkserve.DatagramHandler):
    """Echo, as a handler of ours."""

    def handle(self) -> None:
        """Send it back."""
        self.datagram.reply(self.datagram.data)


def echo(datagram: forkserve.Datagram) -> None:
    """Echo, as a function of the datagram."""
    datagram.reply(datagram.data)


class EchoRequest(socketserver.DatagramRequestHandler):
    """Echo, as a handler for `socketserver` with file objects."""

    def handle(self) -> None:
        """Send it back."""
        self.wfile.write(self.rfile.read())


class EchoBase(socketserver.BaseRequestHandler):
    """Echo, as a handler for `socketserver`."""

    def handle(self) -> None:
        """Send it back."""
        data, own = self.request
        own.sendto(data, self.client_address)


# -- do what comes


class Act(forkserve.DatagramHandler):
    """Act, as a handler of ours."""

    def handle(self) -> None:
        """Act on it."""
        reply = self.datagram.reply
        reply(_act(self, self.datagram.data, reply))


def act(datagram: forkserve.Datagram) -> None:
    """Act, as a function of the datagram."""
    datagram.reply(_act(datagram, datagram.data, datagram.reply))


class ActRequest(socketserver.DatagramRequestHandler):
    """Act, as a handler for `socketserver` with file objects."""

    def handle(self) -> None:
        """Act on it."""
        self.wfile.write(_act(self, self.rfile.read(), self._reply))

    def _reply(self, data: bytes) -> None:
        self.socket.sendto(data, self.client_address)


class ActBase(socketserver.BaseRequestHandler):
    """Act, as a handler for `socketserver`."""

    def handle(self) -> None:
        """Act on it."""
        self._reply(_act(self, self.request[0], self._reply))

    def _reply(self, data: bytes) -> None:
        self.request[1].sendto(data, self.client_address)


class Size(forkserve.DatagramHandler):
    """Answer how many bytes came, and whether there were more."""

    def handle(self) -> None:
        """Tell."""
        self.datagram.reply(f"{len(self.datagram.data)} {self.datagram.truncated}".encode())


def size(datagram: forkserve.Datagram) -> None:
    """Answer how many bytes came, and whether there were more."""
    datagram.reply(f"{len(datagram.data)} {datagram.truncated}".encode())


# -- the three steps


class Steps(forkserve.DatagramHandler):
    """Answer what was called; raise in between if the datagram names an error."""

    def setup(self) -> None:
        """Be first."""
        self.steps = ["setup"]

    def handle(self) -> None:
        """Be second."""
        self.steps.append("handle")
        if self.datagram.data:
            raise ValueError("raised on purpose")

    def finish(self) -> None:
        """Be last."""
        self.datagram.reply(" ".join([*self.steps, "finish"]).encode())


class StepsRequest(socketserver.DatagramRequestHandler):
    """Answer what was called; raise in between if the datagram names an error."""

    def setup(self) -> None:
        """Be first."""
        super().setup()
        self.wfile.write(b"setup")

    def handle(self) -> None:
        """Be second."""
        self.wfile.write(b" handle")
        if self.rfile.read():
            raise ValueError("raised on purpose")

    def finish(self) -> None:
        """Be last."""
        self.wfile.write(b" finish")
        super().finish()


# -- server objects


class Careful(socketserver.UDPServer):
    """Verify, receive and serve in ways of its own."""

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Let in who says so."""
        return bool(request[0].startswith(b"let me in"))

    def get_request(self) -> Any:
        """Shout what comes."""
        (data, own), address = super().get_request()
        return (data + b"!", own), address

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Serve it, and say so."""
        super().finish_request((request[0] + b" finished", request[1]), client_address)


def make_udp() -> socketserver.BaseServer:
    """Make a plain server."""
    return socketserver.UDPServer(("127.0.0.1", 0), ActRequest)


def make_threading_udp() -> socketserver.BaseServer:
    """Make one that would start a thread for each datagram."""
    return socketserver.ThreadingUDPServer(("127.0.0.1", 0), ActBase)


def make_forking_udp() -> socketserver.BaseServer:
    """Make one that would fork for each datagram."""
    return socketserver.ForkingUDPServer(("127.0.0.1", 0), ActRequest)


def make_careful_udp() -> socketserver.BaseServer:
    """Make one with overrides."""
    return Careful(("127.0.0.1", 0), EchoBase)


def make_unix() -> socketserver.BaseServer:
    """Make one at the path that the environment names."""
    return socketserver.UnixDatagramServer(os.environ["SOCKET_PATH"], ActRequest)


def make_threading_unix() -> socketserver.BaseServer:
    """Make one at the path that the environment names, for threads."""
    return socketserver.ThreadingUnixDatagramServer(os.environ["SOCKET_PATH"], ActBase)
