"""Collect our own dead children, and nobody else's."""

import os
from collections.abc import Collection, Iterator


def wait_for(pid: int) -> None:
    """Block until a child that was killed has ended, and collect it."""
    os.waitpid(pid, 0)


def collect(pids: Collection[int]) -> Iterator[tuple[int, int]]:
    """Yield (pid, exit code) for each of these that has ended; a signal's code is negative.

    Never blocks. A child that somebody else in this process started, say with ``subprocess``, is
    left for them (waitid(2), WNOWAIT).
    """
    while pids:
        try:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if found is None:
            return
        is_ours = found.si_pid in pids
        for pid in (found.si_pid,) if is_ours else tuple(pids):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                yield pid, os.waitstatus_to_exitcode(status)
        if not is_ours:
            return  # a stranger's body lies in front, and stays there until it is collected


def collect_stops(pids: Collection[int]) -> Iterator[tuple[int, bool]]:
    """Yield (pid, whether it was stopped) for each of these that a signal stopped or continued."""
    for pid in tuple(pids):
        try:
            found = os.waitid(os.P_PID, pid, os.WSTOPPED | os.WCONTINUED | os.WNOHANG)
        except ChildProcessError:
            continue  # it has ended
        if found is not None:
            yield pid, found.si_code == os.CLD_STOPPED


def collect_all() -> Iterator[tuple[int, int]]:
    """Yield (pid, exit code) for each child that has ended, whoever started it; never blocks.

    For a process that runs nobody else's code, and is left the orphans of those that do.
    """
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
        yield pid, os.waitstatus_to_exitcode(status)


def is_our_child(pid: int) -> bool:
    """Whether this is a child that was not collected yet."""
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True
