"""Walk through one TCP connection and show, after each step, the states the kernel has its ends in.

python3 examples/tcp_lifecycle.py                    the client closes first
python3 examples/tcp_lifecycle.py --close server     the server does, and TIME_WAIT is its
python3 examples/tcp_lifecycle.py --reset            the first to close does it by a reset

Half of the states last only until the other side's packet comes, microseconds here. To look at
them we have that packet dropped on its arrival, then lift this and wait until it is sent again.
"""

import argparse
import select
import socket
import struct
import sys
import textwrap
from pathlib import Path

LIMIT = 10  # seconds after which a wait gives up; what we wait for is always an event
# The numbers of include/net/tcp_states.h, in TCP_INFO and in /proc/net/tcp alike.
STATES = "- ESTABLISHED SYN_SENT SYN_RECV FIN_WAIT1 FIN_WAIT2 TIME_WAIT CLOSE CLOSE_WAIT LAST_ACK"
STATE = [*STATES.split(), "LISTEN", "CLOSING"]

# What a socket wants of packets: this many hops left, else they are thrown away on arrival (RFC
# 5082). Ours come with 64. <linux/in.h> has the name, the socket module does not.
IP_MINTTL = 21


def drop_packets(sock: socket.socket) -> None:
    """Have the kernel throw away whatever arrives for a socket."""
    sock.setsockopt(socket.IPPROTO_IP, IP_MINTTL, 255)


def let_through(sock: socket.socket) -> None:
    """Let packets arrive; the other side will send again those that it has no answer to."""
    sock.setsockopt(socket.IPPROTO_IP, IP_MINTTL, 0)


def linger(sock: socket.socket, seconds: int) -> None:
    """Have close() wait until the other side has acknowledged our end, or, at 0 seconds, reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, seconds))


def place(host: str, port: int) -> str:
    """Return an address as /proc/net/tcp writes it."""
    return f"{int.from_bytes(socket.inet_aton(host), sys.byteorder):08X}:{port:04X}"


class Walk:
    """The sockets of one connection, and the table of their states."""

    def __init__(self) -> None:
        self.sockets: dict[str, socket.socket] = {}
        self.server_at = self.client_at = "unknown yet"
        self.steps = 0
        print(f"{'step':36}{'client':13}{'server':13}listener")

    def show(self, call: str, what: str) -> None:
        """Print a step, the states after it, and what it means."""
        self.steps += 1
        client = self.state("client", self.client_at, self.server_at)
        server = self.state("server", self.server_at, self.client_at)
        listener = self.state("listener", self.server_at, place("0.0.0.0", 0))
        print(f"{self.steps:2} {call:33}{client:13}{server:13}{listener}")
        print(textwrap.indent(textwrap.fill(" ".join(what.split()), 77), "   "))

    def state(self, end: str, address: str, peer: str) -> str:
        """Return the kernel's word on an end, which may have no descriptor yet or no more."""
        for row in Path("/proc/net/tcp").read_text().splitlines():
            _, here, there, code, queues, *_ = row.split()
            if (here, there) == (address, peer):
                state, queued = STATE[int(code, 16)], int(queues.partition(":")[2], 16)
                return f"{state}, {queued} queued" if state == "LISTEN" and queued else state
        sock = self.sockets.get(end)
        if sock is None or sock.fileno() < 0:
            return "-"
        return STATE[sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]]

    def listen(self) -> socket.socket:
        """Make the server's listener."""
        self.sockets["listener"] = listener = socket.socket()
        self.show("server: socket()", "A descriptor, and no address.")
        listener.bind(("127.0.0.1", 0))
        self.server_at = place(*listener.getsockname())
        self.show("server: bind()", "It has an address; a client would still be refused.")
        listener.listen()
        self.show("server: listen()", "From here on the kernel shakes hands, whatever we do.")
        return listener

    def shake_hands(self, listener: socket.socket) -> None:
        """Connect a client, one packet after another."""
        self.sockets["client"] = client = socket.socket()
        self.show("client: socket()", "No address yet: connect() will choose one.")
        drop_packets(listener)
        client.setblocking(False)
        client.connect_ex(listener.getsockname())
        self.client_at = place(*client.getsockname())
        what = "SYN has gone out, no answer comes; a connect() that blocks would be waiting."
        self.show("client: connect(), SYN dropped", what)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, LIMIT)
        let_through(listener)
        select.select([], [client], [], LIMIT)
        what = """A second later the kernel sent SYN again. SYN-ACK came back and connect() is done:
            to the client the connection stands. The server waits for the last ACK: we told it
            (TCP_DEFER_ACCEPT) to overlook one that brings no data."""
        self.show("SYN arrives, ACK overlooked", what)
        client.settimeout(LIMIT)
        client.sendall(b"hello")
        select.select([listener], [], [], LIMIT)
        what = """These bytes bring the ACK along. The connection stands at both ends and is in the
            listener's queue (the backlog), though nobody has called accept()."""
        self.show("client: sendall(b'hello')", what)

    def talk(self, listener: socket.socket) -> None:
        """Accept the connection, and send data each way."""
        self.sockets["server"] = server = listener.accept()[0]
        what = "No packet is sent: what stood in the queue has got a descriptor."
        self.show("server: accept()", what)
        heard = server.recv(100)
        server.sendall(b"welcome")
        what = f"""The server's recv() returned {heard!r}, which had waited in the kernel; the
            client's returned {self.sockets["client"].recv(100)!r}."""
        self.show("server: recv(), sendall()", what)

    def close(self, first: str, second: str) -> None:
        """End each direction, one packet after another."""
        one, other = self.sockets[first], self.sockets[second]
        drop_packets(other)
        one.shutdown(socket.SHUT_WR)
        what = "close() sends FIN too, but then we could not read what the other has to say."
        self.show(f"{first}: shutdown(), FIN dropped", what)
        let_through(other)
        end = other.recv(100)
        other.sendall(b"bye")
        what = f"""The {second}'s recv() returned {end!r}. It may still send, and did: the {first}'s
            returned {one.recv(100)!r}. Who forgets to close() here collects CLOSE_WAIT."""
        self.show("FIN arrives", what)
        drop_packets(one)
        other.shutdown(socket.SHUT_WR)
        self.show(f"{second}: shutdown(), FIN dropped", "The other direction ends as well.")
        let_through(one)
        linger(other, LIMIT)
        other.close()
        what = f"The {first}'s recv() returned {one.recv(100)!r}; the {second}'s end is gone."
        self.show(f"FIN arrives; {second}: close()", what)
        one.close()
        what = f"""Who closes first gets TIME_WAIT, the {first}: for a minute its kernel answers a
            FIN sent again, and keeps late packets out of the next connection."""
        self.show(f"{first}: close()", what)

    def reset(self, first: str, second: str) -> None:
        """End both directions at once, and throw away what is on its way."""
        linger(self.sockets[first], 0)
        self.sockets[first].close()
        try:
            heard = f"returned {self.sockets[second].recv(100)!r}"
        except ConnectionResetError as error:
            heard = f"raised {error}"
        what = f"RST, not FIN. The {second}'s recv() {heard}; nobody gets TIME_WAIT."
        self.show(f"{first}: SO_LINGER 0, close()", what)
        self.sockets[second].close()
        self.show(f"{second}: close()", "Nothing is sent any more.")

    def bind_again(self, listener: socket.socket) -> None:
        """Start the server anew on its old port."""
        address = listener.getsockname()
        listener.close()
        with socket.socket() as self.sockets["listener"]:
            try:
                self.sockets["listener"].bind(address)
                what = "It succeeded: the old connection holds nothing of the server's port."
            except OSError as error:
                what = f"{error.strerror}, by TIME_WAIT: why servers set SO_REUSEADDR."
            self.show("server: bind() there again", what)


def main() -> None:
    """Walk from socket() to close(), and on to the server's next start."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--close", choices=["client", "server"], default="client", help="first")
    options.add_argument("--reset", action="store_true", help="close by a reset")
    chosen = options.parse_args()
    ends = ("client", "server") if chosen.close == "client" else ("server", "client")
    socket.setdefaulttimeout(LIMIT)
    walk = Walk()
    with walk.listen() as listener:
        walk.shake_hands(listener)
        walk.talk(listener)
        (walk.reset if chosen.reset else walk.close)(*ends)
        walk.bind_again(listener)


if __name__ == "__main__":
    main()
