"""The examples' HTTP handlers without a line of log for each request, and http.server beside them.

peers_http.py HTTPServer|ThreadingHTTPServer Files|KeptFiles
"""

import http.server
import sys

from benchmarks.peers_wsgi import say_where
from examples import files, wsgi


class App(wsgi.App):
    """The WSGI example."""

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing, as the other servers do."""


class Files(files.Files):
    """The example that serves files."""

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing, as the other servers do."""


class KeptFiles(Files):
    """The same in HTTP/1.1, whose connections are kept."""

    protocol_version = "HTTP/1.1"


def main(kind: str, handler: str) -> None:
    """Serve until TERM with the standard library's server."""
    server_class: type[http.server.HTTPServer] = getattr(http.server, kind)
    server_class.request_queue_size = 2048
    with server_class(("127.0.0.1", 0), globals()[handler]) as server:
        say_where(server.server_port)
        server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
