"""--reload: change a file, and be served by the new code."""

import os
from pathlib import Path

import pytest

from tests.support import clients, processes
from tests.support.server import TCP, running
from tests.support.waiting import eventually

CODE = """
import forkserve

class Say(forkserve.StreamHandler):
    def handle(self):
        self.connection.send_all({words!r})
"""


def write(file: Path, words: bytes) -> None:
    """Put code that says these words in place of a file's."""
    beside = file.with_suffix(".new")
    beside.write_text(CODE.format(words=words))
    beside.replace(file)


def said(address: str) -> bytes:
    """Return what a client is told."""
    with clients.connect(address) as client:
        return clients.read_to_end(client)


@pytest.mark.parametrize("mode", ["iterative", "thread", "process", "prefork"])
def test_new_code_is_served(mode: str, tmp_path: Path) -> None:
    """A file that was written is served soon after, and once more after the next change."""
    file = tmp_path / "app.py"
    write(file, b"first")
    with running(f"{file}:Say", mode, "--reload", address=TCP, cwd=tmp_path) as server:
        assert said(server.address) == b"first"
        write(file, b"again")
        eventually(lambda: said(server.address) == b"again")
        write(file, b"third")
        eventually(lambda: said(server.address) == b"third")


def test_broken_code_is_not_served(tmp_path: Path) -> None:
    """What does not compile leaves the old code in service, until it is mended."""
    file = tmp_path / "app.py"
    write(file, b"first")
    expect = "SyntaxError|reload failed"
    with running(f"{file}:Say", "prefork", "--reload", cwd=tmp_path, expect=expect) as server:
        file.write_text("def half(:")
        server.wait_for_line("reload failed: .*SyntaxError")
        assert said(server.address) == b"first"
        write(file, b"whole")
        eventually(lambda: said(server.address) == b"whole")


def test_the_watcher_ends_with_the_server(tmp_path: Path) -> None:
    """It is a process of its own, and goes when the supervisor does, even if that is killed."""
    file = tmp_path / "app.py"
    write(file, b"first")
    with running(f"{file}:Say", "prefork", "--reload", cwd=tmp_path, status=None) as server:
        (watcher,) = (one.pid for one in server.processes() if one.name == "fs-watcher")
        server.kill()
        assert processes.wait_until_gone(watcher)


def test_service_goes_on_without_the_watcher(tmp_path: Path) -> None:
    """If the watcher dies, that is said, and nothing else happens."""
    file = tmp_path / "app.py"
    write(file, b"first")
    expect = "watcher of changed files"
    with running(f"{file}:Say", "prefork", "--reload", cwd=tmp_path, expect=expect) as server:
        (watcher,) = (one.pid for one in server.processes() if one.name == "fs-watcher")
        os.kill(watcher, 9)
        server.wait_for_line("watcher of changed files was killed by SIGKILL")
        assert said(server.address) == b"first"
