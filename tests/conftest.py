"""The epilogue of every test: whatever a test or its server leaves behind fails it."""

import contextlib
import ctypes
import os
import re
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import processes, server
from tests.support.faults import Fifo

_PR_SET_CHILD_SUBREAPER = 36
_MOST_WORKERS = 16
_TRACEBACK = re.compile(
    r"^Traceback \(most recent call last\):\n(?:[ \t].*\n|\n)*(.*)$", re.MULTILINE
)
_FIGURES = re.compile(r"[\w-]+: kept in ")
_COMPLAINT = re.compile(
    r"^.*(?:\bERROR\b|\bCRITICAL\b|use of fork\(\)|ResourceWarning|Exception ignored).*$",
    re.MULTILINE,
)


def pytest_configure() -> None:
    """Adopt the orphans of killed servers, so that they show up as ours."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Let `-n auto` run two tests for each processor: most of them wait for other processes."""
    return min(2 * len(os.sched_getaffinity(0)), _MOST_WORKERS)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the figures of the trials that have passed: what was promised, and how it was kept."""
    for report in terminalreporter.stats.get("passed", ()):
        for line in report.capstdout.splitlines():
            if _FIGURES.match(line):
                terminalreporter.write_line(line)


@pytest.fixture(autouse=True)
def epilogue(tmp_path: Path) -> Iterator[None]:
    """Fail the test that leaves something over, or whose server complained."""
    descriptors = processes.descriptors(os.getpid())
    threads = set(threading.enumerate())
    handlers = _signal_handlers()
    yield
    servers = server.started()
    left = [one for one in servers if one.status is None]
    for one in left:
        one.destroy()
    assert not left, "a server was still running when the test ended"
    assert _children_left(patient=any(one.ended_by_force for one in servers)) == []
    for one in servers:
        assert complaints(one.stderr_so_far(), one.expect) == [], one.report()
    assert set(threading.enumerate()) <= threads
    assert processes.descriptors(os.getpid()) == descriptors
    assert _signal_handlers() == handlers
    if not any(one.destroyed for one in servers):
        assert processes.socket_files(tmp_path) == []


@pytest.fixture
def fifo(tmp_path: Path) -> Iterator[Fifo]:
    """Return what lets a blocked handler go on."""
    with contextlib.closing(Fifo(tmp_path)) as fifo:
        yield fifo


def complaints(text: str, expect: str | None) -> list[str]:
    """Return the errors in a log that the test did not announce."""
    ends = [match[1] for match in _TRACEBACK.finditer(text)]
    lines = [match[0] for match in _COMPLAINT.finditer(text)]
    return [line for line in ends + lines if expect is None or not re.search(expect, line)]


def _signal_handlers() -> dict[int, object]:
    ours = signal.valid_signals() - {signal.SIGALRM}  # that one is pytest-timeout's
    return {number: signal.getsignal(number) for number in ours}


def _children_left(*, patient: bool) -> list[processes.Process]:
    """Collect the zombies we adopted, kill what still runs, and return what should not be there."""
    left = []
    for process in processes.descendants(os.getpid()):
        tracer = process.name == "strace"
        gone = processes.wait_until_gone(process.pid, 3.0 if patient or tracer else 0.0)
        if not gone or not (patient or tracer):
            left.append(process)
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(process.pid, 0)
    return left
