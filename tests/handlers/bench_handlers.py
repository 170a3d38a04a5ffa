"""Handlers for `forkserve bench`: each is of a kind that a mode fits, or spoils the figures."""

import itertools
import os
import random
import signal
import sys
import time
from pathlib import Path

import forkserve

_numbers = itertools.count(1)  # of this process' connections


def echo(connection: forkserve.Connection) -> None:
    """Send back whatever arrives."""
    while data := connection.recv():
        connection.send_all(data)


def sleeping(connection: forkserve.Connection) -> None:
    """Wait for something else, as for a database, before the answer."""
    data = connection.recv()
    time.sleep(0.02)
    connection.send_all(data)


def computing(connection: forkserve.Connection) -> None:
    """Compute for some milliseconds, in Python, before the answer."""
    data = connection.recv()
    for _ in range(50):
        sum(range(5000))
    connection.send_all(data)


def crashing(connection: forkserve.Connection) -> None:
    """Take the process down with one connection in fifty, after others have had time to come."""
    data = connection.recv()
    time.sleep(0.002)
    if random.random() < 0.02:
        os.kill(os.getpid(), signal.SIGSEGV)
    connection.send_all(data)


def wrong_later(connection: forkserve.Connection) -> None:
    """Answer wrongly from the 200th connection on."""
    data = connection.recv()
    connection.send_all(data if next(_numbers) < 200 else data.upper())


def fatal_later(connection: forkserve.Connection) -> None:
    """Kill the server's topmost process with the 200th connection."""
    data = connection.recv()
    if next(_numbers) == 200:
        leader = Path(f"/proc/{os.getppid()}/stat").read_text()
        os.kill(int(leader.rpartition(")")[2].split()[1]), signal.SIGKILL)
    connection.send_all(data)


def greeting(connection: forkserve.Connection) -> None:
    """Speak first, and then answer line by line."""
    connection.send_all(b"220 ready\r\n")
    while data := connection.recv():
        connection.send_all(data)


def counting(connection: forkserve.Connection) -> None:
    """Answer each client with another number."""
    connection.recv()
    connection.send_all(f"{next(_numbers)}\n".encode())


def leaving(connection: forkserve.Connection) -> None:
    """End the connection without an answer."""
    connection.recv()


def silent(connection: forkserve.Connection) -> None:
    """Never answer."""
    connection.recv()
    time.sleep(60)


def one_answer(connection: forkserve.Connection) -> None:
    """Answer once, and end the connection."""
    connection.send_all(connection.recv())


def bench_modules(connection: forkserve.Connection) -> None:
    """Answer which modules of the benchmark this server has imported."""
    connection.recv()
    names = [name for name in sys.modules if name.startswith("forkserve.bench")]
    connection.send_all(f"{names}\n".encode())
