"""What a process is called."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.requirements import requires_package

SHOW = """
import sys
from forkserve.process import title
{before}
title.show("fs-leader", "forkserve: leader of generation 1")
{between}
title.show("{short}", "forkserve: worker 0 of generation 2")
print(open("/proc/self/comm").read().strip())
print(open("/proc/self/cmdline").read().strip("\\0").split("\\0")[0])
"""
WITHOUT = "sys.modules['setproctitle'] = None"  # as if it were not installed
TITLE = "forkserve: worker 0 of generation 2"


def shown(before: str = "", between: str = "", short: str = "fs-worker") -> tuple[str, ...]:
    """Return the name and the title of a process that has given itself both, twice."""
    code = SHOW.format(before=before, between=between, short=short)
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    return tuple(done.stdout.splitlines())


def test_without_setproctitle() -> None:
    """Without the package a process has its short name, and the command line it was started by."""
    assert shown(WITHOUT) == ("fs-worker", sys.executable)


def test_with_setproctitle() -> None:
    """With it, ps shows the whole title; the short name is as ever."""
    requires_package("setproctitle")
    assert shown() == ("fs-worker", TITLE)


def test_a_long_name_is_cut() -> None:
    """The kernel keeps fifteen bytes; nobody fails for more."""
    assert shown(WITHOUT, short="fs-" + "x" * 99) == ("fs-xxxxxxxxxxxx", sys.executable)


def test_setproctitle_is_looked_for_once() -> None:
    """What was found by the first call, before the forks, is not looked for in each process."""
    assert shown(WITHOUT, "del sys.modules['setproctitle']") == ("fs-worker", sys.executable)


def test_setproctitle_that_was_found_stays() -> None:
    """What the first call has found serves all after it."""
    requires_package("setproctitle")
    assert shown(between=WITHOUT) == ("fs-worker", TITLE)


@pytest.mark.parametrize(
    "source",
    [
        "raise SystemError('built for another Python')\n",
        "def setproctitle(title):\n    raise RuntimeError('failed to initialize')\n",
    ],
    ids=["import", "call"],
)
def test_setproctitle_that_cannot_be_used(source: str, tmp_path: Path) -> None:
    """A package that fails is as good as none."""
    (tmp_path / "setproctitle.py").write_text(source)
    assert shown(f"sys.path.insert(0, {str(tmp_path)!r})") == ("fs-worker", sys.executable)


@pytest.mark.parametrize("error", ["FileNotFoundError", "PermissionError"])
def test_without_proc(error: str) -> None:
    """Where /proc is missing or read-only a process keeps its name, and goes on."""
    refuse = f"def refuse(*_):\n    raise {error}\ntitle.open = refuse\n"
    name, _ = shown(f"{WITHOUT}\n{refuse}")
    assert name.startswith("python")


def test_nothing_is_imported_before_it_is_needed() -> None:
    """The modules for titles and for --reload import no package that is not Python's own."""
    code = (
        "import sys\n"
        "from forkserve.process import title, watcher\n"
        "print({'setproctitle', 'watchfiles', 'anyio', 'asyncio'} & set(sys.modules))\n"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    assert done.stdout == "set()\n"
