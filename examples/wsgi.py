"""Serve any WSGI application (PEP 3333) with the standard library's handler, unmodified.

    python3 -m forkserve run examples/wsgi.py:App --mode prefork -b tcp://127.0.0.1:8000
    WSGI_APP=package.module:application python3 -m forkserve run examples/wsgi.py:App ...

It is HTTP/1.0, one request a connection. Put something in front of it that faces the internet.
"""

import os
from collections.abc import Iterable
from importlib import import_module
from types import SimpleNamespace
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler
from wsgiref.types import StartResponse, WSGIEnvironment


class App(WSGIRequestHandler):
    """Serve one request with the application."""

    wbufsize = -1  # buffered, so that status, headers and the first block leave in one piece

    def setup(self) -> None:
        super().setup()
        self.server = _as_wsgi_server(self.server)

    def parse_request(self) -> bool:
        """Also refuse a body whose length is not given, which HTTP/1.0 cannot take."""
        if not super().parse_request():
            return False
        if "Transfer-Encoding" in self.headers:
            self.send_error(411)
            return False
        if not self.headers.get("Content-Length", "0").isdecimal():
            self.send_error(400, "Bad Content-Length")
            return False
        return True


def _as_wsgi_server(server: Any) -> Any:
    """Return what the handler asks a wsgiref server for: the application and its environment."""

    def with_the_mode(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        # wsgiref has written what is true of its own server there.
        environ["wsgi.multithread"] = server.multithread
        environ["wsgi.multiprocess"] = server.multiprocess
        return application(environ, start_response)

    host = "localhost" if isinstance(server.server_address, str) else server.server_address[0]
    environ = {
        "SERVER_NAME": host,
        "SERVER_PORT": str(server.server_port),
        "GATEWAY_INTERFACE": "CGI/1.1",
        "SCRIPT_NAME": "",
        "REMOTE_HOST": "",
        "CONTENT_LENGTH": "",
    }
    return SimpleNamespace(base_environ=environ, get_app=lambda: with_the_mode)


def demo(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Show the request, who serves it, and what the request brought."""
    body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"] or 0))
    shown = ("REQUEST_METHOD", "PATH_INFO", "REMOTE_ADDR", "wsgi.multithread", "wsgi.multiprocess")
    lines = [f"{name}: {environ[name]}\n" for name in shown]
    page = "".join([*lines, f"pid: {os.getpid()}\n\n"]).encode() + body
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(page)))])
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [page]


def _load(text: str) -> Any:
    module, _, name = text.partition(":")
    return getattr(import_module(module), name)


application = _load(os.environ["WSGI_APP"]) if "WSGI_APP" in os.environ else demo
