"""A hand-written loop that makes the system calls forkserve makes.

    peers_loop.py peer|server|last|datagram WORKERS

What the user would have to write, without a handler object, limits, an error boundary or a stop:
the floor to compare with. Checked with strace against forkserve, in each shape: accept first, wait
only when the queue is empty, go to the end of the line of waiting workers; shut down writing; close
at once what was read to its end, else when the peer has ended, which is looked at 16 connections
later or when there is nothing else to do.
"""

import os
import select
import signal
import socket
import sys
from collections import deque

ROOM = 65536
BURST = 64
FRESH = 16


class Lingering:
    """Connections that we have ended and whose peer may not have."""

    def __init__(self, poller: select.epoll) -> None:
        self.poller = poller
        self.fresh: deque[socket.socket] = deque()
        self.watched: dict[int, socket.socket] = {}

    def add(self, sock: socket.socket) -> None:
        """End our side, and look at the one that was ended 16 connections ago."""
        sock.shutdown(socket.SHUT_WR)
        self.fresh.append(sock)
        if len(self.fresh) > FRESH:
            oldest = self.fresh.popleft()
            if not is_over(oldest):
                self.watch(oldest)

    def watch(self, sock: socket.socket) -> None:
        """Wait for the peer's end."""
        events = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLONESHOT
        self.watched[sock.fileno()] = sock
        self.poller.register(sock, events)

    def watch_all(self) -> None:
        """Wait for the end of every peer, because there is nothing else to do."""
        while self.fresh:
            self.watch(self.fresh.popleft())

    def hear(self, descriptor: int) -> None:
        """See to one whose peer has sent something, which is mostly the end."""
        if is_over(sock := self.watched.pop(descriptor)):
            return
        self.poller.unregister(sock)
        self.watch(sock)


def is_over(sock: socket.socket) -> bool:
    """Close a connection whose peer has ended."""
    try:
        if sock.recv(ROOM, socket.MSG_DONTWAIT):
            return False
    except BlockingIOError:
        return False
    sock.close()
    return True


def work(listener: socket.socket, shape: str) -> None:
    """Serve for ever."""
    poller = select.epoll()
    watch = select.EPOLLIN | select.EPOLLEXCLUSIVE
    poller.register(listener, watch)
    lingering = Lingering(poller)
    while True:
        lingering.watch_all()
        for descriptor, _ in poller.poll():
            if descriptor == listener.fileno():
                poller.unregister(listener)
                poller.register(listener, watch)
                serve_burst(listener, shape, lingering)
            else:
                lingering.hear(descriptor)


def serve_burst(listener: socket.socket, shape: str, lingering: Lingering) -> None:
    """Serve until the queue is empty, or for long enough."""
    accept = listener._accept  # type: ignore[attr-defined]
    family, kind = int(socket.AF_INET), int(socket.SOCK_STREAM)
    until_end, flags = shape == "peer", socket.MSG_MORE if shape == "last" else 0
    for _ in range(BURST):
        try:
            descriptor, _ = accept()
        except BlockingIOError:
            return
        sock = socket.socket(family, kind, 0, descriptor)
        if until_end:
            while data := sock.recv(ROOM):
                sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            sock.close()
        else:
            sock.sendall(sock.recv(ROOM), flags)
            lingering.add(sock)


def work_on_datagrams(sock: socket.socket) -> None:
    """Send back each datagram, for ever."""
    poller = select.epoll()
    watch = select.EPOLLIN | select.EPOLLEXCLUSIVE
    poller.register(sock, watch)
    while poller.poll():
        poller.unregister(sock)
        poller.register(sock, watch)
        for _ in range(BURST):
            try:
                data, _, _, peer = sock.recvmsg(ROOM, 0, socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
            sock.sendto(data, peer)


def bind_datagrams() -> socket.socket:
    """Return a socket for datagrams."""
    sock = socket.socket(type=socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    return sock


def listen() -> socket.socket:
    """Return a listener whose connections inherit the options that forkserve's do."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 120_000)
    listener.bind(("127.0.0.1", 0))
    listener.listen(2048)
    listener.setblocking(False)
    return listener


def fork_workers(number: int, listener: socket.socket, shape: str) -> list[int]:
    """Fork workers that share the listener, and return their ids."""
    children = []
    for _ in range(number):
        if pid := os.fork():
            children.append(pid)
        else:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            run(listener, shape)
    return children


def run(listener: socket.socket, shape: str) -> None:
    """Serve for ever, connections or datagrams."""
    if shape == "datagram":
        work_on_datagrams(listener)
    work(listener, shape)


def leave(*_: object) -> None:
    """Come to the end, which a second TERM must not cut short."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit()


def main(shape: str, workers: str) -> None:
    """Serve in this process, or in as many forked ones, until TERM."""
    listener = bind_datagrams() if shape == "datagram" else listen()
    children = fork_workers(int(workers), listener, shape) if workers != "1" else []
    signal.signal(signal.SIGTERM, leave)
    scheme = "udp" if shape == "datagram" else "tcp"
    print(f"listening on {scheme}://127.0.0.1:{listener.getsockname()[1]}", file=sys.stderr)
    try:
        if children:
            signal.pause()
        run(listener, shape)
    finally:
        for pid in children:
            os.kill(pid, signal.SIGTERM)
            os.waitpid(pid, 0)


if __name__ == "__main__":
    main(*sys.argv[1:])
