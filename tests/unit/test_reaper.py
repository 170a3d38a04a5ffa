"""Our dead children are collected, and nobody else's."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from forkserve.process.fork import fork
from forkserve.process.reaper import collect
from forkserve.wakeup import Wakeup


@pytest.fixture
def leave() -> Iterator[Wakeup]:
    """Return what lets children go."""
    wakeup = Wakeup()
    os.set_blocking(wakeup.reader, True)
    yield wakeup
    wakeup.close()


def child(act: Callable[[], int]) -> int:
    """Return a child that acts and leaves."""
    return fork(act, lambda: None)


def has_ended(pid: int) -> None:
    """Block until a child has ended, and leave it where it is."""
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def test_no_children() -> None:
    """Nothing is collected where nobody was born."""
    assert list(collect([])) == []


def test_an_exit_code() -> None:
    """A child is collected with what it left by, once."""
    pid = child(lambda: 7)
    has_ended(pid)
    assert list(collect({pid})) == [(pid, 7)]
    assert list(collect({pid})) == []


def test_a_signal(leave: Wakeup) -> None:
    """A signal's code is negative."""
    pid = child(lambda: len(os.read(leave.reader, 1)))
    os.kill(pid, signal.SIGKILL)
    has_ended(pid)
    assert list(collect([pid])) == [(pid, -signal.SIGKILL)]


def test_who_lives_is_not_waited_for(leave: Wakeup) -> None:
    """Collecting never blocks."""
    pid = child(lambda: len(os.read(leave.reader, 1)))
    assert list(collect({pid})) == []
    leave.ring()
    has_ended(pid)
    assert list(collect({pid})) == [(pid, 1)]


def test_all_that_have_ended_at_once() -> None:
    """One signal may stand for many children."""
    pids = {child(lambda code=code: code): code for code in range(5)}  # type: ignore[misc]
    for pid in pids:
        has_ended(pid)
    waiting = dict(pids)
    collected = []
    for pid, code in collect(waiting):
        collected.append((pid, code))
        del waiting[pid]
    assert dict(collected) == pids


def test_a_strangers_child_is_left_alone(leave: Wakeup) -> None:
    """Whoever uses subprocess in our process gets his exit code, and ours are still found."""
    stranger = subprocess.Popen([sys.executable, "-S", "-c", "raise SystemExit(5)"])
    has_ended(stranger.pid)
    ours = child(lambda: len(os.read(leave.reader, 1)))
    assert list(collect({ours})) == []
    leave.ring()
    has_ended(ours)
    assert list(collect({ours})) == [(ours, 1)]
    assert stranger.wait() == 5
