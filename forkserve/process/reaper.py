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
