"""The standard library's socketserver with the handlers of handlers.py.

    peers_stdlib.py TCPServer|ThreadingTCPServer|ForkingTCPServer peer|server
    peers_stdlib.py ThreadingUnixStreamServer peer|server PATH
    peers_stdlib.py PreforkTCPServer peer|server WORKERS
    peers_stdlib.py UDPServer|ThreadingUDPServer|ForkingUDPServer datagram

PreforkTCPServer is what people write by hand: a TCPServer, forked, with one listener for all. The
queue holds what forkserve's holds; all else is as the library has it.
"""

import os
import signal
import socketserver
import sys
from pathlib import Path


class UntilEnd(socketserver.BaseRequestHandler):
    """Send back whatever arrives until the peer ends."""

    def handle(self) -> None:
        while data := self.request.recv(65536):
            self.request.sendall(data)


class Once(socketserver.BaseRequestHandler):
    """Answer once and leave."""

    def handle(self) -> None:
        self.request.sendall(self.request.recv(65536))


class OneDatagram(socketserver.BaseRequestHandler):
    """Send a datagram back."""

    def handle(self) -> None:
        data, sock = self.request
        sock.sendto(data, self.client_address)


HANDLERS = {"peer": UntilEnd, "server": Once, "datagram": OneDatagram}


class PreforkTCPServer(socketserver.TCPServer):
    """Serves in forked processes, one connection at a time in each."""

    workers = 1

    def serve_forever(self, poll_interval: float = 0.5) -> None:
        self.socket.setblocking(False)  # all are woken, and one of them gets the connection
        children = [self._fork() for _ in range(self.workers)]
        signal.signal(signal.SIGTERM, lambda *_: sys.exit())
        try:
            signal.pause()
        finally:
            for pid in children:
                os.kill(pid, signal.SIGTERM)
                os.waitpid(pid, 0)

    def _fork(self) -> int:
        pid = os.fork()
        if not pid:
            super().serve_forever()
        return pid


def main(kind: str, shape: str, extra: str = "") -> None:
    """Serve until TERM."""
    server_class: type[socketserver.TCPServer] = globals().get(kind) or getattr(socketserver, kind)
    server_class.request_queue_size = 2048
    PreforkTCPServer.workers = int(extra) if kind == "PreforkTCPServer" else 1
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    is_local = "Unix" in kind
    address = extra if is_local else ("127.0.0.1", 0)
    if is_local:
        Path(extra).unlink(missing_ok=True)  # the library leaves it there
    with server_class(address, HANDLERS[shape]) as server:  # type: ignore[arg-type]
        scheme = "udp" if shape == "datagram" else "tcp"
        where = f"{scheme}://127.0.0.1:{server.server_address[1]}"
        print(f"listening on {f'unix://{extra}' if is_local else where}", file=sys.stderr)
        server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
