"""Server objects of socketserver, made by functions without arguments as users write them."""

import http.server
import json
import os
import socket
import socketserver
import ssl
import sys
import threading
import weakref
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

from tests.handlers import acts, echo, upload, web

HOME = ("127.0.0.1", 0)
TROUBLEMAKER = "127.0.0.2"


def tcp() -> socketserver.TCPServer:
    """Serve one after another."""
    return socketserver.TCPServer(HOME, acts.StreamRequest)


def threading_tcp() -> socketserver.TCPServer:
    """Serve each in a thread."""
    return socketserver.ThreadingTCPServer(HOME, acts.StreamRequest)


def forking_tcp() -> socketserver.TCPServer:
    """Serve each in a process."""
    return socketserver.ForkingTCPServer(HOME, acts.StreamRequest)


def unbound() -> socketserver.TCPServer:
    """Leave it to the caller to bind."""
    return socketserver.TCPServer(HOME, acts.StreamRequest, bind_and_activate=False)


class _IPv6(socketserver.TCPServer):
    address_family = socket.AF_INET6


def ipv6() -> socketserver.TCPServer:
    """Serve the newer protocol."""
    return _IPv6(("::1", 0), acts.StreamRequest)


def unix() -> socketserver.UnixStreamServer:
    """Serve a path in the current folder."""
    return socketserver.UnixStreamServer(os.path.abspath("home.sock"), acts.StreamRequest)


def unbound_unix() -> socketserver.UnixStreamServer:
    """Leave it to the caller to bind the path."""
    place = os.path.abspath("home.sock")
    return socketserver.UnixStreamServer(place, acts.StreamRequest, bind_and_activate=False)


def threading_unix() -> socketserver.UnixStreamServer:
    """Serve a path in the current folder, each client in a thread."""
    place = os.path.abspath("home.sock")
    return socketserver.ThreadingUnixStreamServer(place, acts.StreamRequest)


def http_server() -> http.server.HTTPServer:
    """Serve HTTP one after another."""
    return http.server.HTTPServer(HOME, web.Describe)


def threading_http() -> http.server.HTTPServer:
    """Serve HTTP in threads."""
    return http.server.ThreadingHTTPServer(HOME, web.Describe)


def files() -> http.server.HTTPServer:
    """Serve the files of the current folder, as `python3 -m http.server` does."""
    return http.server.ThreadingHTTPServer(HOME, http.server.SimpleHTTPRequestHandler)


class _Silent(WSGIRequestHandler):
    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""


def _application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    names = ("SERVER_NAME", "SERVER_PORT", "REMOTE_ADDR", "PATH_INFO")
    body = json.dumps({name: environ.get(name) for name in names}).encode()
    start_response("200 OK", [("Content-Type", "application/json")])
    return [body]


def wsgi() -> socketserver.TCPServer:
    """Serve a WSGI application, as the standard library's documentation shows."""
    return make_server(*HOME, _application, handler_class=_Silent)


# -- at an address that the test names


def at_a_port() -> socketserver.TCPServer:
    """Bind a port that somebody may have already."""
    return socketserver.TCPServer(("127.0.0.1", int(os.environ["PORT"])), acts.StreamRequest)


def at_a_port_with_http() -> http.server.HTTPServer:
    """Bind, with the server_bind of HTTP, a port that somebody may have already."""
    return http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), web.Describe)


# -- overrides


def _note(event: str, **more: object) -> None:
    """Write down what was called, and where, at the end of the journal of the test."""
    where = {"pid": os.getpid(), "thread": threading.get_native_id()}
    line = json.dumps({"event": event, **where, **more})
    with Path(os.environ["JOURNAL"]).open("a") as journal:
        journal.write(f"{line}\n")


class Noting(socketserver.TCPServer):
    """Overrides whatever the documentation says may be overridden."""

    allow_reuse_address = True

    def server_bind(self) -> None:
        """Note it."""
        super().server_bind()
        _note("server_bind", address=self.server_address)

    def server_activate(self) -> None:
        """Note it."""
        super().server_activate()
        _note("server_activate")

    def get_request(self) -> Any:
        """Note it if there was one."""
        got = super().get_request()
        _note("get_request")
        return got

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Note it."""
        _note("verify_request")
        return super().verify_request(request, client_address)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Note it, and do what the mode or a mix-in does."""
        _note("process_request")
        super().process_request(request, client_address)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Note it."""
        _note("finish_request")
        super().finish_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Note it."""
        _note("shutdown_request")
        super().shutdown_request(request)

    def close_request(self, request: Any) -> None:
        """Note it."""
        _note("close_request")
        super().close_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Note it instead of printing a traceback."""
        _note("handle_error", error=type(sys.exc_info()[1]).__name__)


class NotingThreading(Noting, socketserver.ThreadingMixIn):
    """The same in threads."""

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Note it."""
        _note("process_request_thread")
        super().process_request_thread(request, client_address)


class NotingForking(Noting, socketserver.ForkingMixIn):
    """The same in processes."""


class NotingUnix(Noting, socketserver.UnixStreamServer):
    """The same on a path."""


def noting() -> Noting:
    """Note every call."""
    return Noting(HOME, acts.StreamRequest)


def noting_threading() -> Noting:
    """Note every call, with ThreadingMixIn below."""
    return NotingThreading(HOME, acts.StreamRequest)


def noting_forking() -> Noting:
    """Note every call, with ForkingMixIn below."""
    return NotingForking(HOME, acts.StreamRequest)


def noting_unix() -> Noting:
    """Note every call, on a path."""
    return NotingUnix(os.path.abspath("home.sock"), acts.StreamRequest)


class Troubled(socketserver.TCPServer):
    """Has a fault in one method, which one client meets."""

    troublesome: "weakref.WeakSet[Any]"

    def _trouble(self, method: str, request: Any) -> None:
        """Raise the error of the test in the method of the test, for the one client."""
        where, _, name = os.environ["TROUBLE"].partition(":")
        if where == method and request in self.troublesome:
            acts.ACTS["raise"](name)

    def get_request(self) -> Any:
        """Raise after accepting."""
        request, address = super().get_request()
        if address[0] == TROUBLEMAKER:
            self.troublesome.add(request)
        self._trouble("get_request", request)
        return request, address

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Raise instead of saying no."""
        self._trouble("verify_request", request)
        return super().verify_request(request, client_address)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Raise before serving."""
        self._trouble("process_request", request)
        super().process_request(request, client_address)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Raise after serving."""
        super().finish_request(request, client_address)
        self._trouble("finish_request", request)

    def shutdown_request(self, request: Any) -> None:
        """Raise instead of ending the connection."""
        self._trouble("shutdown_request", request)
        super().shutdown_request(request)

    def close_request(self, request: Any) -> None:
        """Raise instead of closing the connection."""
        self._trouble("close_request", request)
        super().close_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Raise where errors are dealt with."""
        self._trouble("handle_error", request)
        super().handle_error(request, client_address)


class TroubledThreading(Troubled, socketserver.ThreadingMixIn):
    """The same with ThreadingMixIn."""


def _mark_none(server: Troubled) -> Troubled:
    server.troublesome = weakref.WeakSet()
    return server


def troubled() -> Troubled:
    """Have a fault."""
    return _mark_none(Troubled(HOME, acts.StreamRequest))


def troubled_threading() -> Troubled:
    """Have a fault, with ThreadingMixIn below."""
    return _mark_none(TroubledThreading(HOME, acts.StreamRequest))


class _Picky(socketserver.ThreadingTCPServer):
    def verify_request(self, request: Any, client_address: Any) -> bool:
        return bool(client_address[0] != TROUBLEMAKER)


def picky() -> socketserver.TCPServer:
    """Want nothing to do with one client."""
    return _Picky(HOME, acts.StreamRequest)


class _Greeter(socketserver.StreamRequestHandler):
    def __init__(self, *arguments: Any, greeting: str) -> None:
        self.greeting = greeting
        super().__init__(*arguments)

    def handle(self) -> None:
        self.wfile.write(self.greeting.encode())


class _Greeting(socketserver.TCPServer):
    greeting = "unset"

    def finish_request(self, request: Any, client_address: Any) -> None:
        handler: Any = self.RequestHandlerClass
        handler(request, client_address, self, greeting=self.greeting)


def greeting() -> socketserver.TCPServer:
    """Give the handler one argument more, from an attribute of the object."""
    handler: Any = _Greeter
    server = _Greeting(HOME, handler)
    server.greeting = "hello"
    return server


class _Whole(socketserver.TCPServer):
    def process_request(self, request: Any, client_address: Any) -> None:
        self.finish_request(request, client_address)
        request.sendall(b"and goodbye\n")
        self.shutdown_request(request)


def whole() -> socketserver.TCPServer:
    """Process requests without the standard library's help."""
    return _Whole(HOME, acts.StreamRequest)


class _Pooled(socketserver.ThreadingMixIn, socketserver.TCPServer):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.pool = ThreadPoolExecutor(4)

    def process_request(self, request: Any, client_address: Any) -> None:
        self.pool.submit(self.process_request_thread, request, client_address)


def pooled() -> socketserver.TCPServer:
    """Hand requests to threads of the object's own."""
    return _Pooled(HOME, acts.StreamRequest)


def refusing() -> socketserver.TCPServer:
    """Answer before everything has been read."""
    return socketserver.ThreadingTCPServer(HOME, upload.OldRefuse)


def echoing() -> socketserver.TCPServer:
    """Send back whatever arrives."""
    return socketserver.ThreadingTCPServer(HOME, echo.StreamRequest)


# -- TLS


def _wrap(server: Any) -> Any:
    """Make a server speak TLS as every tutorial does, with a certificate in the current folder."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain("certificate.pem", "key.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    return server


def https() -> Any:
    """Serve the files of the current folder over TLS."""
    return _wrap(files())


def tls_echo() -> Any:
    """Send back whatever arrives over TLS."""
    return _wrap(echoing())


# -- what is no server


def without_socket() -> socketserver.BaseServer:
    """Return what has nothing to listen on."""
    return socketserver.BaseServer(HOME, acts.StreamRequest)


def fails() -> socketserver.TCPServer:
    """Raise what is no fault of an address."""
    raise ValueError("raised on purpose")
