"""Notice that the user's code has changed on disk (--reload)."""

import contextlib
import importlib
import os
import select
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence

from forkserve import signals
from forkserve.process.fork import fork
from forkserve.process.reaper import wait_for
from forkserve.process.title import show

PERIOD = 0.25  # seconds between two looks
TOLD_PERIOD = 1.0  # where the kernel tells of changes: for what it does not tell, say over NFS
QUIET = 0.1  # seconds without a change after which an editor has finished

# Of each path what is not the same after a write: time of change, size, inode.
Files = dict[str, tuple[int, int, int]]

_SKIPPED = ("__pycache__", "node_modules", "site-packages")


def watch(
    folders: Sequence[str],
    notify: Callable[[], None],
    lifeline: int,
    seen: Files | None = None,
) -> None:
    """Notify once for each batch of changes, until the lifeline is readable or hung up.

    What has changed since the files were seen (without: since now) counts. For a process of its
    own: watchfiles, where it is installed, starts threads.
    """
    files = find(folders) if seen is None else seen
    occasions = _occasions(folders, lifeline)
    for _ in batches(files, occasions, lambda: find(folders), lambda: _is_over(lifeline, QUIET)):
        notify()


def batches(
    files: Files,
    occasions: Iterable[None],
    look: Callable[[], Files],
    is_over: Callable[[], bool],
) -> Iterator[None]:
    """Yield once for each batch of changes to the files that the occasions to look show."""
    for _ in occasions:
        after = look()
        if after == files:
            continue
        settled = settle(after, look, is_over)
        if settled is not None and settled != files:
            files = settled
            yield


def find(folders: Sequence[str]) -> Files:
    """Return the Python files in these folders and below; not those behind a link to a folder."""
    files: Files = {}
    for folder in folders:
        for entry in _walk(folder):
            with contextlib.suppress(OSError):  # removed just now, or a link to nothing
                found = entry.stat()
                files[entry.path] = (found.st_mtime_ns, found.st_size, found.st_ino)
    return files


def settle(files: Files, look: Callable[[], Files], is_over: Callable[[], bool]) -> Files | None:
    """Look until nothing has changed between two looks; None if it is over before.

    An editor may write a file in two steps, and a checkout writes many.
    """
    while not is_over():
        again = look()
        if again == files:
            return files
        files = again
    return None


def _walk(folder: str) -> Iterator[os.DirEntry[str]]:
    for entry in _entries(folder):
        if entry.name.startswith("."):  # an editor's own files too
            continue
        if entry.is_dir(follow_symlinks=False):
            if entry.name not in _SKIPPED and not _is_environment(entry.path):
                yield from _walk(entry.path)
        elif entry.name.endswith(".py"):
            yield entry


def _entries(folder: str) -> list[os.DirEntry[str]]:
    """Return what is in a folder: nothing if it is gone, or not ours to read."""
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:
        return []


def _is_environment(folder: str) -> bool:
    return os.path.exists(os.path.join(folder, "pyvenv.cfg"))


def _occasions(folders: Sequence[str], lifeline: int) -> Iterator[None]:
    """Yield whenever it is time to look, until the lifeline ends."""
    yield  # something may have changed before we came
    try:
        watchfiles = importlib.import_module("watchfiles")
        for _ in watchfiles.watch(
            *folders,
            stop_event=_End(lifeline),  # asked 20 times a second, whatever changes
            rust_timeout=int(TOLD_PERIOD * 1000),
            yield_on_timeout=True,
        ):
            yield
    except (ImportError, OSError, RuntimeError):
        pass  # not installed, or there are more folders than inotify may watch
    while not _is_over(lifeline, PERIOD):
        yield


class _End:
    """What watchfiles asks whether to stop: a threading.Event, for all that it knows."""

    def __init__(self, lifeline: int) -> None:
        self._lifeline = lifeline

    def is_set(self) -> bool:
        """Whether the lifeline has ended."""
        return _is_over(self._lifeline, 0)


def _is_over(lifeline: int, timeout: float) -> bool:
    poll = select.poll()
    poll.register(lifeline, select.POLLIN)
    return bool(poll.poll(timeout * 1000))


class Watcher:
    """A process that watches these folders for its parent, and sends it HUP for each change."""

    def __init__(self, folders: Sequence[str], give_back: Callable[[], None]) -> None:
        seen = find(folders)  # before anything of it is imported
        self._lifeline, self._lifeline_end = os.pipe2(os.O_CLOEXEC)
        parent = os.getpid()

        def prepare() -> None:
            os.close(self._lifeline_end)
            give_back()
            signals.take_over_at_boot()

        def live() -> int:
            show("fs-watcher", "forkserve: watcher of changed files")
            watch(folders, lambda: os.kill(parent, signal.SIGHUP), self._lifeline, seen)
            return 0

        self.pid = fork(live, prepare)
        os.close(self._lifeline)

    def end(self) -> None:
        """Have it end, and wait until it has; it may take half a second."""
        self.forget()
        wait_for(self.pid)

    def forget(self) -> None:
        """Give back what is ours: in a child that has no use for it, or when it has died."""
        os.close(self._lifeline_end)
