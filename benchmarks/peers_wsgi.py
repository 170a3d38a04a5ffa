"""The WSGI application that all HTTP servers serve, and those that are started from Python.

peers_wsgi.py cheroot THREADS
peers_wsgi.py wsgiref
"""

import sys
from collections.abc import Iterable
from wsgiref.simple_server import WSGIRequestHandler, make_server
from wsgiref.types import StartResponse, WSGIEnvironment

ANSWER = b"forkserve and its peers answer with the same sixty-four bytes.\r\n"
HEADERS = [("Content-Type", "text/plain"), ("Content-Length", str(len(ANSWER)))]


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer every request alike."""
    start_response("200 OK", list(HEADERS))
    return [ANSWER]


class Quiet(WSGIRequestHandler):
    """Writes no line for each request, as the other servers do not."""

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def say_where(port: int) -> None:
    """Write the line that says we are ready."""
    print(f"listening on tcp://127.0.0.1:{port}", file=sys.stderr)


def serve_with_wsgiref() -> None:
    """Serve until TERM, one connection at a time."""
    with make_server("127.0.0.1", 0, application, handler_class=Quiet) as server:
        server.socket.listen(2048)
        say_where(server.server_port)
        server.serve_forever()


def serve_with_cheroot(threads: int) -> None:
    """Serve until TERM."""
    from cheroot.wsgi import Server

    server = Server(
        ("127.0.0.1", 0), application, numthreads=threads, max=threads, request_queue_size=2048
    )
    server.prepare()
    say_where(server.bind_addr[1])
    server.serve()


def main(kind: str, threads: str = "1") -> None:
    """Serve until TERM."""
    if kind == "cheroot":
        serve_with_cheroot(int(threads))
    serve_with_wsgiref()


if __name__ == "__main__":
    main(*sys.argv[1:])
