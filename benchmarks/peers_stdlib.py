"""The standard library's socketserver with the handlers of handlers.py.

    peers_stdlib.py TCPServer|ThreadingTCPServer|ForkingTCPServer peer|server
    peers_stdlib.py UDPServer|ThreadingUDPServer|ForkingUDPServer datagram

The queue holds what forkserve's holds; all else is as the library has it.
"""

import signal
import socketserver
import sys


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


def main(kind: str, shape: str) -> None:
    """Serve until TERM."""
    server_class: type[socketserver.TCPServer] = getattr(socketserver, kind)
    server_class.request_queue_size = 2048
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with server_class(("127.0.0.1", 0), HANDLERS[shape]) as server:
        scheme = "udp" if shape == "datagram" else "tcp"
        print(f"listening on {scheme}://127.0.0.1:{server.server_address[1]}", file=sys.stderr)
        server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
