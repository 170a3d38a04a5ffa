"""Unix sockets: whose the path is, what may be replaced, and who may connect from when on."""

import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support import clients
from tests.support.faults import frozen
from tests.support.modes import ACTS, ECHO, MODES, Mode, named
from tests.support.server import TCP, Server, run_command, running, starting

every_mode = pytest.mark.parametrize("mode", MODES, ids=named(MODES))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a path for a socket, in a folder of its own."""
    folder = tmp_path / "run"
    folder.mkdir()
    return folder / "s.sock"


def identity(path: Path) -> tuple[int, int]:
    """Return which file is there."""
    status = path.lstat()
    return status.st_dev, status.st_ino


@contextmanager
def watched(look: Callable[[], object]) -> Iterator[set[object]]:
    """Look as often as possible while the block runs, and collect what was seen."""
    seen: set[object] = set()
    enough = threading.Event()

    def work() -> None:
        while not enough.is_set():
            seen.add(look())

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield seen
    finally:
        enough.set()
        thread.join()


def mode_of(path: Path) -> int | None:
    """Return the permissions of the file, or None if there is none."""
    try:
        return stat.S_IMODE(path.lstat().st_mode)
    except FileNotFoundError:
        return None


@pytest.mark.smoke
@every_mode
def test_orderly_stop_leaves_an_empty_folder(mode: Mode, path: Path) -> None:
    """The socket is there while the server runs, and nothing is there after it."""
    with running(ECHO, *mode.arguments, address=f"unix://{path}") as server:
        assert stat.S_ISSOCK(path.lstat().st_mode)
        assert clients.ask(server.address, b"hello") == b"hello"
    assert list(path.parent.iterdir()) == []


def test_stale_socket_is_replaced(path: Path) -> None:
    """The next server replaces a killed one's socket, and the path is never missing (F107)."""
    with running(ECHO, address=f"unix://{path}", status=None) as first:
        first.kill_all_parents()
    stale = identity(path)
    with watched(path.exists) as seen, running(ECHO, address=f"unix://{path}") as second:
        assert clients.ask(second.address, b"hello") == b"hello"
        assert identity(path) != stale
        assert second.addresses == [f"unix://{path}"]
        assert list(path.parent.iterdir()) == [path]
        assert seen == {True}
        path_while_running = path.exists()
    assert path_while_running
    assert not path.exists()


def test_stale_socket_that_nobody_made_us(path: Path) -> None:
    """A stale socket of another program is replaced as well (F107)."""
    program = "import socket, sys; socket.socket(socket.AF_UNIX).bind(sys.argv[1])"
    subprocess.run([sys.executable, "-c", program, path], check=True)
    with running(ECHO, address=f"unix://{path}") as server:
        assert clients.ask(server.address, b"hello") == b"hello"


def test_live_socket_is_not_stolen(path: Path) -> None:
    """A second server on a live socket ends with status 1 and takes nothing away (F108)."""
    with running(ACTS, address=f"unix://{path}") as first:
        before = identity(path)
        with clients.connect(first.address) as client:
            second = run_command("run", ACTS, "-b", f"unix://{path}")
            assert second.returncode == 1
            assert len(second.stderr.splitlines()) == 1
            assert str(path) in second.stderr
            assert identity(path) == before
            assert clients.command(client, "echo still") == "still"
        assert clients.ask_line(first.address, "echo here") == "here"
        assert list(path.parent.iterdir()) == [path]


def test_live_socket_of_a_server_with_no_time_is_not_stolen(path: Path) -> None:
    """A live socket whose server does not accept just now, its queue full, is not stale (F108)."""
    with running(ACTS, address=f"unix://{path}?backlog=1") as first:
        before = identity(path)
        with frozen([process.pid for process in first.processes()]):
            held = [clients.connect(first.address) for _ in range(2)]
            second = run_command("run", ACTS, "-b", f"unix://{path}")
            assert second.returncode == 1
            assert identity(path) == before
        assert [clients.command(client, "echo here") for client in held] == ["here"] * 2
        for client in held:
            client.close()


def test_two_servers_at_the_same_time(path: Path) -> None:
    """Of two servers that start together on one path, one serves and one is refused (F108)."""
    arguments = (ACTS, "-b", f"unix://{path}")
    for _ in range(5):
        with starting(*arguments) as one, starting(*arguments) as other:
            assert sorted(_outcome(server) for server in (one, other)) == ["refused", "served"]
            assert clients.ask_line(f"unix://{path}", "echo here") == "here"
        assert list(path.parent.iterdir()) == []


def _outcome(server: Server) -> str:
    try:
        server.wait_until_ready(1)
    except AssertionError:
        return "refused" if server.wait() == 1 else server.report()
    return "served"


def _a_file(path: Path) -> None:
    path.write_text("precious")


def _a_folder(path: Path) -> None:
    path.mkdir()


def _a_link(path: Path) -> None:
    (path.parent / "elsewhere").write_text("precious")
    path.symlink_to("elsewhere")


def _a_dangling_link(path: Path) -> None:
    path.symlink_to("nowhere")


def _a_fifo(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize("make", [_a_file, _a_folder, _a_link, _a_dangling_link, _a_fifo])
def test_what_is_no_socket_is_kept(make: Callable[[Path], None], path: Path) -> None:
    """A path that is taken by anything but a stale socket ends with status 1 and stays (F109)."""
    make(path)
    before = sorted((one.name, one.lstat()[:6]) for one in path.parent.iterdir())
    done = run_command("run", ECHO, "-b", f"unix://{path}")
    assert done.returncode == 1, done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert str(path) in done.stderr
    assert sorted((one.name, one.lstat()[:6]) for one in path.parent.iterdir()) == before


def test_path_that_is_too_long(tmp_path: Path) -> None:
    """A path that no Unix socket can have is refused in one line that says so (F109)."""
    path = tmp_path / ("x" * 120)
    done = run_command("run", ECHO, "-b", f"unix://{path}")
    assert done.returncode in {1, 2}, done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert str(path) in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_longest_path(tmp_path: Path) -> None:
    """A path of the full 107 bytes works, its replacement too (F109)."""
    path = tmp_path / ("x" * (107 - len(str(tmp_path)) - 1))
    for _ in range(2):
        with running(ECHO, address=f"unix://{path}", status=None) as server:
            assert clients.ask(server.address, b"hello") == b"hello"
            server.kill_all_parents()
    path.unlink()


def test_folder_that_is_not_there(tmp_path: Path) -> None:
    """A path in a folder that does not exist ends with status 1 and names the path (F109)."""
    path = tmp_path / "no" / "folder" / "s"
    done = run_command("run", ECHO, "-b", f"unix://{path}")
    assert done.returncode == 1, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert str(path) in done.stderr


@pytest.mark.parametrize("umask", ["000", "022", "077"])
@pytest.mark.parametrize(
    ("query", "mode"), [("", 0o660), ("?mode=0600", 0o600), ("?mode=666", 0o666)]
)
def test_mode_is_right_from_the_first_moment(query: str, mode: int, umask: str, path: Path) -> None:
    """The socket has its mode, no wider and no narrower, whenever it can be seen (F110)."""
    under = ["sh", "-c", f'umask {umask}; exec "$@"', "sh"]
    with (
        watched(lambda: mode_of(path)) as seen,
        running(ECHO, address=f"unix://{path}{query}", under=under),
    ):
        assert mode_of(path) == mode
    assert seen <= {None, mode}


@pytest.mark.heavy
@pytest.mark.timeout(300)
def test_mode_is_right_in_every_replacement(path: Path) -> None:
    """Nor is it wider for a moment in 50 replacements of a stale socket (F110)."""
    with watched(lambda: mode_of(path)) as seen:
        for _ in range(50):
            with running(ECHO, address=f"unix://{path}?mode=0600", status=None) as server:
                server.kill_all_parents()
    assert seen <= {None, 0o600}
    path.unlink()


def test_path_taken_over_while_running(path: Path) -> None:
    """A server that stops leaves the socket that another one has put in its place (F111)."""
    with running(ACTS, address=f"unix://{path}") as old:
        path.rename(path.with_name("kept"))
        with running(ACTS, address=f"unix://{path}") as new:
            before = identity(path)
            assert old.stop() == 0
            assert identity(path) == before
            assert clients.ask_line(new.address, "echo here") == "here"
    path.with_name("kept").unlink()


def test_path_removed_while_running(path: Path) -> None:
    """A server whose socket file somebody removed stops in order (F111)."""
    with running(ACTS, address=[f"unix://{path}", TCP]) as server:
        path.unlink()
        assert clients.ask_line(server.addresses[1], "echo here") == "here"
    assert list(path.parent.iterdir()) == []


def test_path_replaced_by_a_file_while_running(path: Path) -> None:
    """A server that stops leaves a file that somebody has put in the place of its socket (F111)."""
    with running(ACTS, address=f"unix://{path}"):
        path.unlink()
        path.write_text("precious")
    assert path.read_text() == "precious"


def test_relative_path(tmp_path: Path) -> None:
    """A path relative to the current folder is served and removed like any other."""
    with running(ECHO, address="unix://s", cwd=tmp_path) as server:
        assert (tmp_path / "s").is_socket()
        assert clients.ask(f"unix://{tmp_path}/s", b"hello") == b"hello"
        assert server.address.endswith("s")
    assert not (tmp_path / "s").exists()
