"""The server designs of UNIX Network Programming, chapter 30, each the shortest that is right.

    unp_designs.py DESIGN COUNT

COUNT is how many children or threads there are, where a design has them ahead. No error is looked
after and nothing is limited: the loops show what the dispatching itself costs. `serve` is what all
of them do with a connection, and what forkserve is given as its handler. Modules that only one
design needs are imported there: what is in memory makes every fork dearer.
"""

import contextlib
import fcntl
import os
import select
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable
from typing import NoReturn, Protocol

BACKLOG = 2048
ID_SIZE = 20  # an answer begins with who gives it, in so many bytes, the last a newline
PATTERN = bytes(range(256)) * 256


class Connected(Protocol):
    """What a connection can do: the socket module's and forkserve's alike."""

    def recv(self, size: int, /) -> bytes:
        """Return what there is."""

    def sendall(self, data: bytes, /) -> None:
        """Send all of it."""


def serve(connection: Connected) -> None:
    """Read a line with a size, and answer so many bytes: the thread's id and a pattern."""
    line = b""
    while not line.endswith(b"\n"):
        data = connection.recv(64)
        if not data:
            return
        line += data
    connection.sendall(b"%019d\n" % threading.get_native_id() + PATTERN[: int(line) - ID_SIZE])


def serve_and_close(connection: socket.socket) -> None:
    """Serve a connection to its end."""
    with connection:
        serve(connection)


def accept_alone(listener: socket.socket) -> NoReturn:
    """Accept and serve, one after another."""
    while True:
        serve_and_close(listener.accept()[0])


class Parent:
    """The process that makes the children, and ends them when TERM comes."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.children: list[int] = []
        self.listener = listen()

    def fork_children(self, work: Callable[[int], None]) -> None:
        """Fork children that work with their number."""
        for number in range(self.count):
            pid = os.fork()
            if not pid:
                work(number)
            self.children.append(pid)

    def is_ready(self) -> None:
        """Say where we listen, now that everything is there."""
        signal.signal(signal.SIGTERM, self._end)
        print(f"listening on tcp://127.0.0.1:{self.listener.getsockname()[1]}", flush=True)

    def _end(self, *_: object) -> None:
        for pid in self.children:
            os.kill(pid, signal.SIGTERM)
        with contextlib.suppress(ChildProcessError):
            while True:
                os.wait()
        os._exit(0)

    def wait(self) -> NoReturn:
        """Leave the work to the others."""
        self.is_ready()
        while True:
            signal.pause()


def listen(*options: int) -> socket.socket:
    """Return a listener that blocks."""
    listener = socket.socket()
    for option in options:
        listener.setsockopt(socket.SOL_SOCKET, option, 1)
    listener.bind(("127.0.0.1", 0))
    listener.listen(BACKLOG)
    return listener


def iterative(parent: Parent) -> None:
    """Serve one client at a time: no process control, the baseline."""
    parent.is_ready()
    accept_alone(parent.listener)


def fork_each(parent: Parent) -> None:
    """Fork a child for each client."""
    signal.signal(signal.SIGCHLD, reap)
    parent.is_ready()
    while True:
        connection, _ = parent.listener.accept()
        if not os.fork():
            serve_and_close(connection)
            os._exit(0)
        connection.close()


def reap(*_: object) -> None:
    """Collect the children that have ended."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def prefork(parent: Parent) -> None:
    """Let every child wait in accept."""
    parent.fork_children(lambda _: accept_alone(parent.listener))
    parent.wait()


def prefork_file_lock(parent: Parent) -> None:
    """Let one child at a time wait in accept: who has locked a file."""
    file = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the process lives

    def work(_: int) -> None:
        while True:
            fcntl.lockf(file, fcntl.LOCK_EX)
            connection, _peer = parent.listener.accept()
            fcntl.lockf(file, fcntl.LOCK_UN)
            serve_and_close(connection)

    parent.fork_children(work)
    parent.wait()


def prefork_semaphore(parent: Parent) -> None:
    """Let one child at a time wait in accept: who has the lock in shared memory.

    The book has a pthread mutex there; multiprocessing.Lock is a POSIX semaphore. Both are a word
    in shared memory and, where a child has to wait, futex(2).
    """
    import multiprocessing

    lock = multiprocessing.get_context("fork").Lock()

    def work(_: int) -> None:
        while True:
            with lock:
                connection, _peer = parent.listener.accept()
            serve_and_close(connection)

    parent.fork_children(work)
    parent.wait()


def prefork_passing(parent: Parent) -> None:
    """Accept in the parent, and pass each descriptor to the first child that is free."""
    pairs = [socket.socketpair() for _ in range(parent.count)]

    def work(number: int) -> None:
        channel = pairs[number][1]
        while True:
            _, descriptors, _, _ = socket.recv_fds(channel, 1, 1)
            serve_and_close(socket.socket(fileno=descriptors[0]))
            channel.send(b"!")

    parent.fork_children(work)
    parent.is_ready()
    channels = [ours for ours, _ in pairs]
    free = set(range(parent.count))
    while True:
        readable, _, _ = select.select([parent.listener, *channels] if free else channels, [], [])
        for number, channel in enumerate(channels):
            if channel in readable:
                channel.recv(1)
                free.add(number)
        if parent.listener in readable:
            connection, _ = parent.listener.accept()
            chosen = min(free)
            free.remove(chosen)
            socket.send_fds(channels[chosen], [b"!"], [connection.fileno()])
            connection.close()


def thread_each(parent: Parent) -> None:
    """Start a thread for each client."""
    parent.is_ready()
    while True:
        connection, _ = parent.listener.accept()
        threading.Thread(target=serve_and_close, args=(connection,), daemon=True).start()


def start_threads(count: int, work: Callable[[], None]) -> None:
    """Start threads that work for ever."""
    for _ in range(count):
        threading.Thread(target=work, daemon=True).start()


def prethread_lock(parent: Parent) -> None:
    """Let one thread at a time wait in accept: who has the lock."""
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                connection, _ = parent.listener.accept()
            serve_and_close(connection)

    start_threads(parent.count, work)
    parent.wait()


def prethread_main(parent: Parent) -> None:
    """Accept in the main thread, and hand each connection to one of the others."""
    import queue

    accepted: queue.SimpleQueue[socket.socket] = queue.SimpleQueue()

    def work() -> None:
        while True:
            serve_and_close(accepted.get())

    start_threads(parent.count, work)
    parent.is_ready()
    while True:
        accepted.put(parent.listener.accept()[0])


def epoll_herd(parent: Parent) -> None:
    """Let every child wait in a level-triggered epoll of its own."""
    wait_in_epoll(parent, select.EPOLLIN, renews=False)


def epoll_exclusive(parent: Parent) -> None:
    """Let every child wait with EPOLLEXCLUSIVE."""
    wait_in_epoll(parent, select.EPOLLIN | select.EPOLLEXCLUSIVE, renews=False)


def epoll_renewed(parent: Parent) -> None:
    """Let every child wait with EPOLLEXCLUSIVE, and go to the end of the line when it is woken."""
    wait_in_epoll(parent, select.EPOLLIN | select.EPOLLEXCLUSIVE, renews=True)


def wait_in_epoll(parent: Parent, events: int, *, renews: bool) -> NoReturn:
    """Let every child wait for a connection, and then try to be the one who gets it."""
    listener = parent.listener
    listener.setblocking(False)

    def work(_: int) -> None:
        poller = select.epoll()
        poller.register(listener, events)
        while True:
            poller.poll()
            if renews:
                poller.unregister(listener)
                poller.register(listener, events)
            try:
                connection, _peer = listener.accept()
            except BlockingIOError:
                continue
            serve_and_close(connection)

    parent.fork_children(work)
    parent.wait()


def reuseport(parent: Parent) -> None:
    """Give each child a listener of its own on one port: the kernel deals connections out."""
    parent.listener.close()
    parent.listener = listen(socket.SO_REUSEPORT)
    others = [parent.listener.dup()]
    for _ in range(parent.count - 1):
        one = socket.socket()
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        one.bind(parent.listener.getsockname())
        one.listen(BACKLOG)
        others.append(one)
    parent.fork_children(lambda number: accept_alone(others[number]))
    parent.wait()


DESIGNS: dict[str, Callable[[Parent], None]] = {
    design.__name__: design
    for design in (
        iterative,
        fork_each,
        prefork,
        prefork_file_lock,
        prefork_semaphore,
        prefork_passing,
        thread_each,
        prethread_lock,
        prethread_main,
        epoll_herd,
        epoll_exclusive,
        epoll_renewed,
        reuseport,
    )
}

if __name__ == "__main__":
    DESIGNS[sys.argv[1]](Parent(int(sys.argv[2])))
