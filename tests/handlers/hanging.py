"""Hang in every way that a handler can, as each line of the connection says."""

import os
import re
import signal
import socketserver
import threading
import time
from collections.abc import Callable
from typing import Any

import forkserve

TROUBLEMAKER = "127.0.0.2"
FOR_EVER = 10_000.0


def hang_in_sleep() -> None:
    """Sleep, where the interpreter lets other threads run."""
    time.sleep(FOR_EVER)


def hang_in_spin() -> None:
    """Compute in Python, for ever."""
    while True:
        pass


def hang_on_lock() -> None:
    """Wait for a lock that nobody releases."""
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


def hang_in_sum() -> None:
    """Compute in C, without once returning to Python or letting another thread run."""
    sum(range(10**15))


def hang_in_regex() -> None:
    """Match a pattern that backtracks for longer than anybody lives."""
    re.match(r"(a+)+$", "a" * 64 + "b")


def hang_deaf() -> None:
    """Compute with every signal blocked that can be."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    while True:
        pass


def hang_on_descriptor() -> None:
    """Read from a pipe that nobody writes to, which no end of the connection interrupts."""
    reader, _ = os.pipe()
    os.read(reader, 1)


def hang_stopped() -> None:
    """Stop the whole process, as a terminal or a debugger does."""
    os.kill(os.getpid(), signal.SIGSTOP)
    while True:
        pass


HANGS: dict[str, Callable[[], None]] = {
    "sleep": hang_in_sleep,
    "spin": hang_in_spin,
    "lock": hang_on_lock,
    "sum": hang_in_sum,
    "regex": hang_in_regex,
    "deaf": hang_deaf,
    "descriptor": hang_on_descriptor,
    "stopped": hang_stopped,
}


class Stream(forkserve.StreamHandler):
    """Answer lines with the process that did, and hang where one says so.

    What is no line, but ends with the input, is sent back.
    """

    def handle(self) -> None:
        """Do what each line says."""
        for line in self.rfile:
            if line.endswith(b"\n"):
                self._act(*line.decode().split())
                line = f"{os.getpid()}\n".encode()
            self.connection.send_all(line)

    def _act(self, name: str, *arguments: str) -> None:
        if name == "hang":
            self.connection.send_all(b"started\n")
            HANGS[arguments[0]]()
        elif name == "extend":
            self.connection.extend_timeout(float(arguments[0]))
        elif name == "wait":
            threading.Event().wait(float(arguments[0]))


class _Lines(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        for line in self.rfile:
            self.wfile.write(line)


class _StuckLoop(socketserver.TCPServer):
    hang = staticmethod(hang_on_descriptor)

    def get_request(self) -> Any:
        request, address = super().get_request()
        if address[0] == TROUBLEMAKER:
            self.hang()
        return request, address


class _SpinningLoop(_StuckLoop):
    hang = staticmethod(hang_in_spin)


class _SlowLoop(socketserver.TCPServer):
    def get_request(self) -> Any:
        enough = time.process_time() + 0.03
        while time.process_time() < enough:
            pass
        return super().get_request()


class _StuckDoor(socketserver.TCPServer):
    def verify_request(self, request: Any, client_address: Any) -> bool:
        if client_address[0] == TROUBLEMAKER:
            hang_in_spin()
        return super().verify_request(request, client_address)


def stuck_loop() -> socketserver.TCPServer:
    """Hang in the accept loop for one client."""
    return _StuckLoop(("127.0.0.1", 0), _Lines)


def spinning_loop() -> socketserver.TCPServer:
    """Hang in the accept loop for one client, and want a processor for it."""
    return _SpinningLoop(("127.0.0.1", 0), _Lines)


def slow_loop() -> socketserver.TCPServer:
    """Compute a little in the accept loop, for every client."""
    return _SlowLoop(("127.0.0.1", 0), _Lines)


def stuck_door() -> socketserver.TCPServer:
    """Hang where a client is looked at before it is served."""
    return _StuckDoor(("127.0.0.1", 0), _Lines)
