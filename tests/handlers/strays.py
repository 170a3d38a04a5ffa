"""Leave processes behind, and change the state of one's own process, as no handler should."""

import contextlib
import json
import locale
import os
import signal
import socket
import subprocess
from collections.abc import Callable

import forkserve

_KEPT: list[subprocess.Popen[bytes]] = []  # or each would be collected when forgotten


def _wait_for_ever() -> None:
    """Outlive every signal but KILL."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    while True:
        signal.pause()


def _fork() -> int:
    """Leave a child."""
    child = os.fork()
    if child == 0:
        _wait_for_ever()
    return child


def _fork_twice() -> int:
    """Leave a grandchild whose parent has ended."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, str(_fork()).encode())
        os._exit(0)
    os.waitpid(child, 0)
    grandchild = int(os.read(reader, 20))
    os.close(reader)
    os.close(writer)
    return grandchild


def _start() -> int:
    """Leave a program."""
    _KEPT.append(subprocess.Popen(["sleep", "1000"]))
    return _KEPT[-1].pid


def _fork_to_collect() -> int:
    """Leave a child that has ended with a status of 7, and that somebody may collect later."""
    child = os.fork()
    if child == 0:
        os._exit(7)
    return child


def _collect(child: str) -> int:
    """Return the status of one's own child."""
    return os.waitstatus_to_exitcode(os.waitpid(int(child), 0)[1])


def _spoil() -> str:
    """Change all that a process has one of."""
    with contextlib.suppress(ValueError):  # in a thread
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    os.chdir("/")
    os.umask(0o777)
    locale.setlocale(locale.LC_ALL, "C")
    socket.setdefaulttimeout(30)
    return "spoilt"


ACTS: dict[str, Callable[..., object]] = {
    "echo": lambda text: text,
    "pid": os.getpid,
    "parent": os.getppid,
    "strays": lambda: json.dumps([_fork(), _fork_twice(), _start()]),
    "child": _fork_to_collect,
    "collect": _collect,
    "spoil": _spoil,
}


class Stream(forkserve.StreamHandler):
    """Do what each line says, and answer each with one line."""

    def handle(self) -> None:
        """Act on each line."""
        for line in self.rfile:
            name, *arguments = line.decode().split()
            self.connection.send_all(f"{ACTS[name](*arguments)}\n".encode())
