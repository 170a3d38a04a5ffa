"""Receive log records over TCP, in the pattern of the standard library's logging cookbook."""

import logging
import os
import pickle
import select
import socketserver
import struct
from typing import Any


class LogRecordStreamHandler(socketserver.StreamRequestHandler):
    """Takes pickled records, each after its length in four bytes, and logs them here."""

    def handle(self) -> None:
        """Handle one record after another until the peer ends."""
        while True:
            head = self.connection.recv(4)
            if len(head) < 4:
                return
            (size,) = struct.unpack(">L", head)
            body = self.connection.recv(size)
            while len(body) < size:
                body += self.connection.recv(size - len(body))
            self.handle_record(logging.makeLogRecord(pickle.loads(body)))

    def handle_record(self, record: logging.LogRecord) -> None:
        """Log it, under the server's name if it has one."""
        server: Any = self.server
        name = record.name if server.logname is None else server.logname
        logging.getLogger(name).handle(record)


class LogRecordSocketReceiver(socketserver.ThreadingTCPServer):
    """Has a loop of its own, which nobody needs here, and the attributes for it."""

    allow_reuse_address = True

    def __init__(self, host: str = "127.0.0.1", port: int = 0, handler: Any = None) -> None:
        super().__init__((host, port), handler or LogRecordStreamHandler)
        self.abort = False
        self.timeout = 1
        self.logname: str | None = None

    def serve_until_stopped(self) -> None:
        """Serve as the cookbook does."""
        while not self.abort:
            ready, _, _ = select.select([self.socket], [], [], self.timeout)
            if ready:
                self.handle_request()


def receiver() -> LogRecordSocketReceiver:
    """Return a receiver that appends what it gets to a file, a line each."""
    logging.basicConfig(
        filename=os.environ["LOG_FILE"],
        format="%(name)s %(levelname)s %(message)s",
        level=logging.DEBUG,
    )
    return LogRecordSocketReceiver()


if __name__ == "__main__":
    receiver().serve_until_stopped()
