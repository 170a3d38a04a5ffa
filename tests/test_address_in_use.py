"""What is said and done where somebody else has an address (F113)."""

import os
import signal
import socket

import pytest

from tests.support import clients
from tests.support.modes import ECHO
from tests.support.server import run_command, starting
from tests.support.waiting import eventually

KINDS = pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM], ids=["tcp", "udp"])


def occupied(kind: int) -> tuple[socket.socket, str]:
    """Return a socket that has an address, and the address."""
    taken = socket.socket(type=kind)
    taken.bind(("127.0.0.1", 0))
    if kind == socket.SOCK_STREAM:
        taken.listen()
    return taken, f"127.0.0.1:{taken.getsockname()[1]}"


@KINDS
def test_the_error_names_who_has_it(kind: int) -> None:
    """Where that can be seen the error names the process that has the address."""
    taken, where = occupied(kind)
    scheme = "tcp" if kind == socket.SOCK_STREAM else "udp"
    target = ECHO if scheme == "tcp" else ECHO.replace("echo.py:Stream", "datagrams.py:Act")
    with taken:
        ended = run_command("run", target, "-b", f"{scheme}://{where}")
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert f"cannot listen on {scheme}://{where}: Address already in use" in line
    assert f"process {os.getpid()} (" in line


def test_an_address_that_is_freed_meanwhile() -> None:
    """With --bind-retries the server waits for the address, and serves when it is free."""
    taken, where = occupied(socket.SOCK_STREAM)
    with starting(ECHO, "-m", "thread", "-b", where, "--bind-retries", "50") as server:
        eventually(lambda: waits(server.pid))
        taken.close()
        server.wait_until_ready(1)
        assert clients.ask(server.address, b"hello") == b"hello"
        assert server.stop() == 0


def test_a_stop_while_the_address_is_in_use() -> None:
    """A TERM between two tries ends the command as one at any other time."""
    taken, where = occupied(socket.SOCK_STREAM)
    with taken, starting(ECHO, "-b", where, "--bind-retries", "500") as server:
        eventually(lambda: waits(server.pid))
        assert server.stop(signal.SIGTERM) == 0


def waits(pid: int) -> bool:
    """Tell whether the process waits for a signal that ends it, as it does between two tries."""
    with open(f"/proc/{pid}/wchan") as file:
        return "sigtimedwait" in file.read()
