"""Collect our own dead children, and nobody else's."""

import os
from collections.abc import Collection, Iterator


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
        if found.si_pid not in pids:
            yield from _collect_each(tuple(pids))
            return
        yield from _collect_each((found.si_pid,))


def _collect_each(pids: Collection[int]) -> Iterator[tuple[int, int]]:
    for pid in pids:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            yield pid, os.waitstatus_to_exitcode(status)
