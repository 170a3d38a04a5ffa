"""Make short connections to 127.0.0.1, check every byte, print one line of JSON.

The same as load.c, where the arguments are explained, for machines without a C compiler.
It is slower, so a fast server waits for it more often: compare figures of one generator only.
"""

import errno
import json
import select
import signal
import socket
import sys
import time
from dataclasses import dataclass

SIZE = 64
MOST = 4096
PAUSE = 0.005
PRECISE = 0.002
OUTCOMES = (
    "ok",
    "refused",
    "reset_connecting",
    "connect_timeout",
    "lost",
    "unanswered",
    "wrong",
    "unclean_end",
    "other",
)


@dataclass(slots=True)
class Client:
    """One connection on its way, and what it expects to be sent back."""

    sock: socket.socket
    since: float
    expected: bytes
    sent: bool = False
    answer: bytes = b""


def not_connected(error: int) -> str:
    """Return the outcome of a connect that failed."""
    return {
        errno.ECONNREFUSED: "refused",
        errno.ECONNRESET: "reset_connecting",
        errno.EPIPE: "reset_connecting",
        errno.ETIMEDOUT: "connect_timeout",
    }.get(error, "other")


class Load:
    """A run: its clients, what became of them, and how long the good ones took."""

    def __init__(self, port: int, shape: str, source: str, patience: float) -> None:
        self.port, self.source, self.patience = port, source, patience
        self.to_end = shape == "server"
        self.kind = socket.SOCK_DGRAM if shape == "datagram" else socket.SOCK_STREAM
        self.poller = select.epoll()
        self.alive: dict[int, Client] = {}
        self.counts = dict.fromkeys(OUTCOMES, 0)
        self.times: list[float] = []
        self.made = 0
        self.resume: list[float] = []
        self.stopping = False

    def start(self, since: float) -> None:
        """Connect and, where the handshake is done at once, send."""
        sock = socket.socket(type=self.kind)
        sock.setblocking(False)
        self.made += 1
        client = Client(sock, since, b"%064x" % (self.made * 0x9E3779B97F4A7C15))
        self.alive[sock.fileno()] = client
        try:
            sock.setsockopt(socket.IPPROTO_IP, getattr(socket, "IP_BIND_ADDRESS_NO_PORT", 24), 1)
            sock.bind((self.source, 0))
            error = sock.connect_ex(("127.0.0.1", self.port))
        except OSError:
            error = -1
        if error not in (0, errno.EINPROGRESS):
            return self.end(client, not_connected(error))
        self.poller.register(sock, select.EPOLLIN | select.EPOLLOUT)

    def end(self, client: Client, outcome: str) -> None:
        """Close one connection and note what became of it."""
        del self.alive[client.sock.fileno()]
        client.sock.close()
        self.counts[outcome] += 1
        if outcome == "ok":
            self.times.append(time.monotonic() - client.since)
        elif outcome in ("refused", "reset_connecting", "connect_timeout"):
            self.resume.append(time.monotonic() + PAUSE)

    def send(self, client: Client) -> None:
        """Send the message of a connection that has just been made."""
        error = client.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            return self.end(client, not_connected(error))
        try:
            client.sent = client.sock.send(client.expected) == SIZE
        except OSError as failure:
            return self.end(client, not_connected(failure.errno or 0))
        self.poller.modify(client.sock, select.EPOLLIN)

    def receive(self, client: Client) -> None:
        """Take what has come, and end the connection when it is all there."""
        try:
            data = client.sock.recv(SIZE + 1)
        except BlockingIOError:
            return
        except OSError:
            return self.end(client, "lost" if len(client.answer) < SIZE else "unclean_end")
        client.answer += data
        if not data:
            self.end(client, "ok" if len(client.answer) == SIZE else "lost")
        elif not client.expected.startswith(client.answer):
            self.end(client, "wrong")
        elif len(client.answer) == SIZE and not self.to_end:
            self.end(client, "ok")

    def give_up_on_the_late(self, now: float) -> None:
        """End those that have waited longer than we have patience."""
        for client in list(self.alive.values()):
            if client.since + self.patience < now:
                self.end(client, "unanswered" if client.sent else "connect_timeout")

    def handle(self, timeout: float) -> None:
        """Wait for answers and take them."""
        for descriptor, _ in self.poller.poll(timeout, 256):
            client = self.alive.get(descriptor)
            if client and not client.sent:
                self.send(client)
            elif client:
                self.receive(client)

    def run(self, at_a_time: int, rate: float, seconds: float) -> None:
        """Keep the clients busy until the time is up, then let them finish."""
        due = now = time.monotonic()
        finish = now + seconds
        while self.alive or (now < finish and not self.stopping):
            going = now < finish and not self.stopping
            self.resume = [moment for moment in self.resume if moment > now]
            room = at_a_time - len(self.alive) - len(self.resume)
            while going and room > 0 and (not rate or due <= now):
                self.start(due if rate else now)
                due += 1 / rate if rate else 0
                room -= 1
            wake = min([now + 0.25, *self.resume[:1], *([due] if rate and going else [])])
            self.handle(max(0.0, wake - time.monotonic() - PRECISE))
            now = time.monotonic()
            self.give_up_on_the_late(now)

    def stop(self, *_: object) -> None:
        """Make no new connection."""
        self.stopping = True


def main(arguments: list[str]) -> None:
    """Run as the seven arguments say and print the result."""
    port, shape, at_a_time, rate, seconds, source, patience = arguments
    load = Load(int(port), shape, source, float(patience))
    signal.signal(signal.SIGTERM, load.stop)
    begin = time.monotonic()
    load.run(min(int(at_a_time), MOST), float(rate), float(seconds))
    times = sorted(load.times) or [0.0]
    late = {f"p{p}_us": round(times[len(times) * p // 100] * 1e6, 1) for p in (50, 90, 99)}
    took = round(time.monotonic() - begin, 3)
    print(json.dumps({"generator": "Python", "seconds": took, **load.counts, **late}))


if __name__ == "__main__":
    main(sys.argv[1:])
