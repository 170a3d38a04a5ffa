"""Serve a script of ours from threads of the test, whatever a server may do."""

import contextlib
import os
import select
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.clients import read_line

Act = Callable[[socket.socket], None]
Reply = Callable[[socket.socket, bytes, object], None]


@dataclass
class Scripted:
    """A server in threads of ours, and what it has seen."""

    address: str
    connections: int = 0
    at_once: int = 0
    most_at_once: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @contextlib.contextmanager
    def counting(self) -> Iterator[None]:
        """Count a connection while the block runs."""
        with self.lock:
            self.connections += 1
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            yield
        finally:
            with self.lock:
                self.at_once -= 1


def name_of(listener: socket.socket) -> str:
    """Return the address of a listener as an order names it."""
    is_stream = listener.type == socket.SOCK_STREAM
    name = listener.getsockname()
    if listener.family == socket.AF_UNIX:
        return f"{'unix' if is_stream else 'unixgram'}://{name}"
    host = f"[{name[0]}]" if ":" in name[0] else name[0]
    return f"{'tcp' if is_stream else 'udp'}://{host}:{name[1]}"


def listen(backlog: int = 128) -> socket.socket:
    """Return a TCP listener."""
    return socket.create_server(("127.0.0.1", 0), backlog=backlog)


def listen_unix(path: Path, backlog: int = 128) -> socket.socket:
    """Return a Unix listener."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(backlog)
    return listener


@contextlib.contextmanager
def serving(
    act: Act, listener: socket.socket | None = None, at_once: int = 16
) -> Iterator[Scripted]:
    """Do something with so many connections at a time until the block ends."""
    with contextlib.ExitStack() as stack:
        stack.callback(remove, listener := stack.enter_context(listener or listen()))
        server = Scripted(name_of(listener))
        pool = stack.enter_context(ThreadPoolExecutor(at_once + 1))
        pool.submit(accept_all, listener, lambda sock: pool.submit(serve, server, sock, act))
        try:
            yield server
        finally:
            listener.shutdown(socket.SHUT_RDWR)  # ends accept()


def remove(listener: socket.socket) -> None:
    """Remove what a Unix socket leaves."""
    if listener.family == socket.AF_UNIX:
        os.unlink(listener.getsockname())


def accept_all(listener: socket.socket, serve: Callable[[socket.socket], object]) -> None:
    """Accept until the listener is shut down."""
    with contextlib.suppress(OSError):
        while True:
            sock, _ = listener.accept()
            try:
                serve(sock)
            except RuntimeError:  # the block has ended, and the pool takes no more
                sock.close()


def serve(server: Scripted, sock: socket.socket, act: Act) -> None:
    """Do something with one connection."""
    with server.counting(), sock, contextlib.suppress(OSError):
        sock.settimeout(10)
        act(sock)


@contextlib.contextmanager
def serving_datagrams(reply: Reply, listener: socket.socket) -> Iterator[str]:
    """Reply to every datagram until the block ends."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(listener)
        stack.callback(remove, listener)
        ours, theirs = socket.socketpair()
        stack.enter_context(ours)
        stack.enter_context(theirs)

        def run() -> None:
            while ours not in select.select([listener, ours], [], [])[0]:
                data, peer = listener.recvfrom(65536)
                reply(listener, data, peer)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield name_of(listener)
        finally:
            theirs.send(b"end")
            thread.join()


def answering(answer: bytes) -> Act:
    """Return what reads a line and answers it once."""

    def act(sock: socket.socket) -> None:
        read_line(sock)
        sock.sendall(answer)

    return act


def answer_all(sock: socket.socket) -> None:
    """Answer every line until the client ends."""
    while read_line(sock):
        sock.sendall(b"pong\n")


def udp(host: str = "127.0.0.1") -> socket.socket:
    """Return a UDP socket to be served at."""
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((host, 0))
    return sock
