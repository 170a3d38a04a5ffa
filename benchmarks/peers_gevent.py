"""A gevent StreamServer that does what handlers.py does: peers_gevent.py peer|server."""

import socket
import sys

from gevent.server import StreamServer


def until_end(sock: socket.socket, address: object) -> None:
    """Send back whatever arrives until the peer ends."""
    while data := sock.recv(65536):
        sock.sendall(data)


def once(sock: socket.socket, address: object) -> None:
    """Answer once and leave."""
    sock.sendall(sock.recv(65536))


def main(shape: str) -> None:
    """Serve until TERM."""
    handle = until_end if shape == "peer" else once
    server = StreamServer(("127.0.0.1", 0), handle, backlog=2048)
    server.start()
    print(f"listening on tcp://127.0.0.1:{server.server_port}", file=sys.stderr)
    server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
