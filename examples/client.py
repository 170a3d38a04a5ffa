"""Talk to the echo server and print what each call of a stream socket did.

python3 examples/client.py 127.0.0.1:9000        a TCP address
python3 examples/client.py /run/echo.sock        a Unix socket's path
"""

import socket
import sys

KIBIBYTE = 1024
BIG = bytes(range(256)) * 16 * KIBIBYTE  # 4 MiB, more than the buffers on the way hold
WORDS = b"one two three"


def connect(address: str) -> socket.socket:
    """Return a connected socket whose calls give up after 10 seconds instead of never."""
    if "/" in address:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(10)
        sock.connect(address)
        return sock
    host, _, port = address.rpartition(":")
    sock = socket.create_connection((host.strip("[]"), int(port)), timeout=10)
    # Unset, the kernel lets this buffer grow to megabytes and send() might take everything.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * KIBIBYTE)
    return sock


def read_exactly(sock: socket.socket, count: int) -> bytes:
    """Call recv until `count` bytes are there, since one call may bring fewer."""
    pieces = []
    while count:
        piece = sock.recv(min(count, 64 * KIBIBYTE))
        if not piece:
            sys.exit(f"the server closed the connection {count} bytes early")
        pieces.append(piece)
        count -= len(piece)
    return b"".join(pieces)


def show_send(sock: socket.socket) -> None:
    """Offer more than the kernel has room for; the count returned says what it took."""
    taken = sock.send(BIG)
    print(f"send({len(BIG)} bytes) returned {taken}: the other {len(BIG) - taken} were not sent")
    # Read before sending more: a server that cannot send to us stops reading from us.
    check(read_exactly(sock, taken), BIG[:taken])
    print(f"recv, called until it had brought {taken} bytes: the same bytes came back")


def show_sendall(sock: socket.socket) -> None:
    """Send everything or raise; there is no count to look at."""
    sock.sendall(WORDS)
    print(f"sendall({len(WORDS)} bytes) returned: everything is on its way")


def show_recv(sock: socket.socket) -> None:
    """Ask for less than was sent; the rest waits for the next call."""
    answer = b""
    while len(answer) < len(WORDS):
        piece = sock.recv(4)
        print(f"recv(4) returned {piece!r}")
        answer += piece
    check(answer, WORDS)


def show_half_close(sock: socket.socket) -> None:
    """End our direction only, and read the other to its end."""
    sock.sendall(b"last words")
    sock.shutdown(socket.SHUT_WR)
    print("sendall(10 bytes), shutdown(SHUT_WR): we have said everything, and still listen")
    answer = b""
    while piece := sock.recv(64 * KIBIBYTE):
        answer += piece
    check(answer, b"last words")
    print(f"recv until it returned b'': {answer!r}, then the server's end")


def check(received: bytes, expected: bytes) -> None:
    """Leave with a message if the echo is not what was sent."""
    if received != expected:
        sys.exit("what came back is not what was sent; is this an echo server?")


def main() -> None:
    """Walk through one connection from connect to close."""
    address = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:9000"
    with connect(address) as sock:
        print(f"connected to {sock.getpeername()}")
        show_send(sock)
        show_sendall(sock)
        show_recv(sock)
        show_half_close(sock)
    print("closed")


if __name__ == "__main__":
    main()
