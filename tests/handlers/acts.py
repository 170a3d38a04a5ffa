"""Do what each line of the connection says, once for each kind of handler."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import forkserve


class Unheard(BaseException):
    """A fault that is not even an Exception."""


def _recurse(depth: int) -> int:
    return _recurse(depth + 1) + 1


def _raise(name: str) -> str:
    """Raise what the name says, with a message that the log will show."""
    if name == "RecursionError":
        _recurse(0)
    known = {"CancelledError": asyncio.CancelledError, "Unheard": Unheard}
    builtin = vars(__import__("builtins"))
    raise (known.get(name) or builtin[name])("raised on purpose")


def _links() -> dict[str, str]:
    """Return what each descriptor of this process is, but for the one that lists them."""
    links = {}
    for entry in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            links[entry] = os.readlink(f"/proc/self/fd/{entry}")
    return links


def _links_of_a_program() -> list[str]:
    """Return the descriptors that a program started without `close_fds` has."""
    program = "import os; print(*sorted(os.listdir('/proc/self/fd'), key=int))"
    done = subprocess.run(
        [sys.executable, "-IS", "-c", program], close_fds=False, capture_output=True, check=True
    )
    return done.stdout.decode().split()


def _listening() -> list[int]:
    """Return the descriptors of this process that are listening sockets."""
    found = []
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        with contextlib.suppress(OSError):
            copy = socket.socket(fileno=os.dup(descriptor))
            with copy:
                if copy.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    found.append(descriptor)
    return found


def _shut_the_listener() -> str:
    """Do what no handler should: shut down the listener that all share."""
    for descriptor in _listening():
        with socket.socket(fileno=os.dup(descriptor)) as copy:
            copy.shutdown(socket.SHUT_RDWR)
    return "shut"


def _wait_for(fifo: str) -> str:
    """Block where no connection can interrupt: until the FIFO has a byte for us."""
    with open(fifo, "rb", buffering=0) as end:
        end.read(1)
    return "released"


def _leave_an_orphan(fifo: str) -> str:
    """Fork an orphan that keeps every descriptor of ours until the FIFO has a byte for it."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        orphan = os.fork()
        if orphan == 0:
            _wait_for(fifo)
        else:
            os.write(writer, str(orphan).encode())
        os._exit(0)
    os.waitpid(child, 0)
    number = os.read(reader, 20).decode()
    os.close(reader)
    os.close(writer)
    return number


def _kill(number: str) -> None:
    """Die by a signal, which the kernel may deliver to another thread than this."""
    os.kill(os.getpid(), int(number))
    threading.Event().wait()


def _ignore_term() -> str:
    """Block and ignore what would stop a process politely."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT})
    return "deaf"


def _storm() -> str:
    """Let an alarm ring in this process a thousand times a second."""
    signal.signal(signal.SIGALRM, lambda number, frame: None)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    return "storm"


def _burn(seconds: str) -> str:
    """Compute in C, without once returning to Python, for about so long."""
    began = time.perf_counter()
    sum(range(1_000_000))
    sum(range(int(1_000_000 * float(seconds) / (time.perf_counter() - began))))
    return "burnt"


def _describe(subject: Any, connection: Any) -> str:
    """Return what a handler sees of its connection and its server."""
    server = getattr(subject, "server", None)
    named = ("server_address", "server_name", "server_port")
    client_address = getattr(subject, "client_address", None)
    seen = {
        "client_address": client_address,
        "server": {name: getattr(server, name, None) for name in named},
        "server_socket": server is not None and getattr(server, "socket", None) is not None,
        "shutdown": callable(getattr(server, "shutdown", None)),
        "peername": connection.getpeername(),
        "sockname": connection.getsockname(),
        "peer": getattr(connection, "peer", None),
        "local": getattr(connection, "local", None),
        "linger": connection.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8)[0],
        "nodelay": connection.family != socket.AF_UNIX
        and connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0,
        "keepalive": connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) != 0,
        "blocking": os.get_blocking(connection.fileno()),
    }
    return json.dumps(seen, default=str)


ACTS: dict[str, Callable[..., object]] = {
    "echo": lambda text="": text,
    "pid": os.getpid,
    "parent": os.getppid,
    "who": lambda: json.dumps({"pid": os.getpid(), "thread": threading.get_native_id()}),
    "links": lambda: json.dumps(_links()),
    "program-links": lambda: json.dumps(_links_of_a_program()),
    "listening": lambda: json.dumps(_listening()),
    "shut-listener": _shut_the_listener,
    "raise": _raise,
    "leave": lambda code: os._exit(int(code)),
    "kill": _kill,
    "sys.exit": lambda code="0": sys.exit(int(code)),
    "wait-for": _wait_for,
    "leave-an-orphan": _leave_an_orphan,
    "deaf": _ignore_term,
    "storm": _storm,
    "burn": _burn,
}


def _serve(
    lines: Iterable[bytes], reply: Callable[[bytes], Any], subject: Any, connection: Any
) -> None:
    """Act on one line after another, and answer each with one line."""
    for line in lines:
        name, *arguments = line.decode().split()
        if name == "enough":
            return
        if name == "big":
            reply(b"x" * int(arguments[0]))
            continue
        if name == "announce":
            reply(b"started\n")
            name, *arguments = arguments
        if name == "describe":
            answer: object = _describe(subject, connection)
        elif name == "stopping":
            answer = subject.server.stopping
        elif name == "shutdown":
            answer = subject.server.shutdown()
        else:
            answer = ACTS[name](*arguments)
        reply(f"{answer}\n".encode())


class Stream(forkserve.StreamHandler):
    """Act, as a handler of ours."""

    def handle(self) -> None:
        """Act on each line."""
        _serve(self.rfile, self.connection.send_all, self, self.connection)


def function(connection: forkserve.Connection) -> None:
    """Act, as a function of the connection."""
    with connection.makefile("rb") as lines:
        _serve(lines, connection.sendall, None, connection)


class Base(socketserver.BaseRequestHandler):
    """Act, as a handler for `socketserver`."""

    def handle(self) -> None:
        """Act on each line."""
        with self.request.makefile("rb") as lines:
            _serve(lines, self.request.sendall, self, self.request)


class StreamRequest(socketserver.StreamRequestHandler):
    """Act, as a handler for `socketserver` with file objects."""

    def handle(self) -> None:
        """Act on each line."""
        _serve(self.rfile, self.wfile.write, self, self.connection)
