"""What counts as a change of the user's code, and who is told."""

import contextlib
import os
import select
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from itertools import repeat, takewhile
from pathlib import Path
from typing import IO, NamedTuple

import pytest

from forkserve.process import watcher
from forkserve.process.fork import fork
from tests.support import processes
from tests.support.requirements import requires_package

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Return what makes a file in the test's folder."""

    def write(name: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
        return path

    return write


# -- which files


def found(folder: Path) -> set[str]:
    """Return the files that are watched, by their place in the folder."""
    return {os.path.relpath(path, folder) for path in watcher.find([str(folder)])}


@pytest.mark.parametrize("name", ["shop.py", "till/drawer.py", "a/b/c/d.py", "venv/notes.py"])
def test_a_python_file_is_watched(name: str, write: Write, tmp_path: Path) -> None:
    """Python files are watched at any depth."""
    write(name)
    assert found(tmp_path) == {name}


@pytest.mark.parametrize(
    "name",
    [
        "notes.txt",
        "shop.pyc",
        "shop.py~",
        ".#shop.py",
        ".hidden/shop.py",
        "till/.hidden/shop.py",
        "__pycache__/shop.py",
        "node_modules/gyp/shop.py",
        "env/lib/python3.11/site-packages/shop.py",
    ],
)
def test_what_is_not_the_users_code_is_not(name: str, write: Write, tmp_path: Path) -> None:
    """Other files are not watched, nor what is hidden, generated or installed."""
    write(name)
    assert found(tmp_path) == set()


def test_a_virtual_environment_is_not_watched(write: Write, tmp_path: Path) -> None:
    """A folder with a pyvenv.cfg is left out, whatever its name."""
    write("tools/pyvenv.cfg")
    write("tools/bin/activate_this.py")
    assert found(tmp_path) == set()


@pytest.mark.parametrize("name", [".hidden", "site-packages", "env"])
def test_a_folder_that_was_asked_for_is_watched(name: str, write: Write, tmp_path: Path) -> None:
    """What the user names is watched, whatever its name, even if an environment was made in it."""
    write(f"{name}/pyvenv.cfg")
    write(f"{name}/shop.py")
    assert found(tmp_path / name) == {"shop.py"}


def test_links(write: Write, tmp_path: Path) -> None:
    """A link to a file is watched; one to nothing, or to a folder (above, even), is not."""
    (tmp_path / "link.py").symlink_to(write("outside/shop.txt"))
    (tmp_path / "nothing.py").symlink_to(tmp_path / "missing.py")
    (tmp_path / "up").symlink_to(tmp_path)
    assert found(tmp_path) == {"link.py"}


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    """A folder that is missing holds nothing, and is no error."""
    assert watcher.find([str(tmp_path / "missing")]) == {}


def test_several_folders(write: Write, tmp_path: Path) -> None:
    """Each folder counts, and a file in two of them once."""
    paths = {str(write("a/shop.py")), str(write("b/till.py"))}
    assert set(watcher.find([str(tmp_path / name) for name in ("a", "b", "a")])) == paths


# -- what is a change


def edit(path: Path) -> None:
    """Write the file again, in place and with its old time."""
    times = (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    path.write_text("more")
    os.utime(path, ns=times)


def replace(path: Path) -> None:
    """Put another file in its place, as many editors do, with its old time."""
    times = (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    other = path.with_suffix(".tmp")
    other.write_text("")
    os.utime(other, ns=times)
    other.rename(path)


def touch(path: Path) -> None:
    """Give the file another time."""
    os.utime(path, ns=(1, 1))


def add(path: Path) -> None:
    """Put a file beside it."""
    path.with_name("other.py").write_text("")


@pytest.mark.parametrize("change", [edit, replace, touch, add, Path.unlink])
def test_a_change_is_seen(change: Callable[[Path], None], write: Write, tmp_path: Path) -> None:
    """Content, time, the file behind the name, and which files there are: each counts."""
    path = write("shop.py")
    before = watcher.find([str(tmp_path)])
    change(path)
    assert watcher.find([str(tmp_path)]) != before


def test_reading_is_no_change(write: Write, tmp_path: Path) -> None:
    """Whoever reads a file, or writes another, has changed nothing."""
    path = write("shop.py")
    before = watcher.find([str(tmp_path)])
    path.read_text()
    write("__pycache__/shop.cpython-311.pyc")
    assert watcher.find([str(tmp_path)]) == before


# -- when it is over

HALF, WHOLE = {"shop.py": (1, 10, 7)}, {"shop.py": (2, 20, 7)}


def test_a_half_written_file_is_waited_for() -> None:
    """Files have settled when one quiet interval has passed."""
    looks = iter([WHOLE, WHOLE])
    assert watcher.settle(HALF, lambda: next(looks), lambda: False) == WHOLE
    assert list(looks) == []


def test_what_is_quiet_has_settled() -> None:
    """One look is enough if it shows nothing new."""
    assert watcher.settle(WHOLE, lambda: WHOLE, lambda: False) == WHOLE


def test_the_end_comes_before_the_files_settle() -> None:
    """Files that change for ever do not hold up the end."""
    ends = iter([False, False, True])
    sizes = iter(range(99))
    look = lambda: {"shop.py": (1, next(sizes), 7)}  # noqa: E731
    assert watcher.settle(HALF, look, lambda: next(ends)) is None


NOT_YET: watcher.Files = {}


@pytest.mark.parametrize(
    ("looks", "count"),
    [
        ([NOT_YET, NOT_YET], 0),
        ([HALF, HALF, HALF], 1),
        ([HALF, WHOLE, WHOLE, WHOLE], 1),
        ([HALF, HALF, HALF, WHOLE, WHOLE, WHOLE], 2),
        ([HALF, NOT_YET, NOT_YET, NOT_YET], 0),
    ],
    ids=["nothing", "one", "in two steps", "two", "made and removed"],
)
def test_a_batch_counts_once(looks: list[watcher.Files], count: int) -> None:
    """A batch is told once, when it has settled, and only if something is different then."""
    left = deque(looks)
    occasions = takewhile(lambda _: left, repeat(None))
    told = watcher.batches(NOT_YET, occasions, left.popleft, lambda: False)
    assert len(list(told)) == count


# -- a real watcher


class Watching(NamedTuple):
    """A watcher in a process of its own."""

    pid: int
    notices: int
    lifeline: IO[bytes]

    def wait_for_notice(self) -> None:
        """Fail unless it notices something in time."""
        assert select.select([self.notices], [], [], 10)[0], "nothing was noticed"
        assert os.read(self.notices, 1) == b"!"

    def close(self) -> bytes:
        """Hang up, wait for the end, and return the notices that were left."""
        self.lifeline.close()
        assert processes.wait_until_gone(self.pid, 3)
        return os.read(self.notices, 99)


@contextlib.contextmanager
def watching(folder: Path, seen: watcher.Files, *others: Path) -> Iterator[Watching]:
    """Watch folders, of which these files were seen, until the test hangs up."""
    lifeline, end = os.pipe()
    notices, told = os.pipe()

    def notify() -> None:
        os.write(told, b"!")

    def child() -> int:
        os.close(end)
        os.close(notices)
        watcher.watch([str(one) for one in (folder, *others)], notify, lifeline, seen)
        return 0

    pid = fork(child, lambda: None)
    os.close(lifeline)
    os.close(told)
    with open(end, "wb", buffering=0) as ours:
        try:
            yield Watching(pid, notices, ours)
        finally:
            os.close(notices)
            if not processes.wait_until_gone(pid, 0):
                os.kill(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
    assert status == 0


@pytest.fixture(params=["watchfiles", "polling"])
def means(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Watch with and without watchfiles."""
    if request.param == "watchfiles":
        requires_package("watchfiles")
    else:
        monkeypatch.setitem(sys.modules, "watchfiles", None)
    return str(request.param)


def test_a_change_is_noticed(means: str, write: Write, tmp_path: Path) -> None:
    """Each change is noticed while the lifeline holds; at its end nothing is left to tell."""
    path = write("shop.py")
    with watching(tmp_path, watcher.find([str(tmp_path)])) as it:
        path.write_text("one")
        it.wait_for_notice()
        write("till/drawer.py")
        it.wait_for_notice()
        path.unlink()
        it.wait_for_notice()
        assert it.close() == b""


def test_many_changes_are_one_batch(means: str, write: Write, tmp_path: Path) -> None:
    """What changed since the files were seen is told at once, and as one, before more changes."""
    names = ["shop.py", "till.py", "safe.py"]
    seen = watcher.find([str(tmp_path)])
    for path in map(write, names):
        path.write_text("new")
    with watching(tmp_path, seen) as it:
        it.wait_for_notice()
        assert it.close() == b""


@pytest.mark.parametrize("end", ["hung up", "readable"])
def test_the_lifelines_end_is_the_watchers(
    end: str, means: str, write: Write, tmp_path: Path
) -> None:
    """The watcher leaves when its parent is gone, or says so."""
    with watching(tmp_path, {}) as it:
        write("shop.py")
        it.wait_for_notice()
        if end == "readable":
            it.lifeline.write(b"x")
            assert processes.wait_until_gone(it.pid, 3)
        assert it.close() == b""


def test_a_folder_that_changes_all_the_time(means: str, write: Write, tmp_path: Path) -> None:
    """Whatever else happens in the folder, the watcher leaves when its parent is gone."""
    noise, is_enough = write("log.txt"), threading.Event()

    def scribble() -> None:
        while not is_enough.wait(0.005):
            noise.write_text("x")

    with watching(tmp_path, {}) as it:
        scribbler = threading.Thread(target=scribble)
        scribbler.start()
        try:
            write("shop.py")
            it.wait_for_notice()
            assert it.close() == b""
        finally:
            is_enough.set()
            scribbler.join()


def test_a_folder_that_cannot_be_watched(means: str, write: Write, tmp_path: Path) -> None:
    """Where one of the folders is missing the others are watched all the same."""
    with watching(tmp_path, {}, tmp_path / "missing") as it:
        write("shop.py")
        it.wait_for_notice()
        write("till.py")
        it.wait_for_notice()
        assert it.close() == b""
