"""Fork: the one way a process of ours is made, and the one way it leaves."""

import os
import signal
import sys
from collections.abc import Callable

from forkserve import signals
from forkserve.log import log


def fork(child: Callable[[], int], prepare: Callable[[], None]) -> int:
    """Run child in a new process that exits with what it returns; return the new process's id.

    Signals are held back until the child has done prepare(), where it installs its own handlers
    and wakeup, so none is handled by the parent's in its name. What print() has buffered must be
    flushed before. Raises OSError if there is no room for a process (fork(2): EAGAIN, ENOMEM).
    """
    mask = signals.block()
    try:
        pid = os.fork()
        if pid == 0:
            _live(child, prepare, mask)
        return pid
    finally:
        signals.restore(mask)


def _live(child: Callable[[], int], prepare: Callable[[], None], mask: signals.Mask) -> None:
    """Be the child. Never returns: the parent's stack below must not run twice."""
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        prepare()
        signals.restore(mask)
        status = child()
    except BaseException as error:
        log.error("process %d failed", os.getpid(), traceback=error)
    finally:
        flush()
        os._exit(status)


def flush() -> None:
    """Write out what print() has buffered, so that it appears once."""
    try:  # no contextlib here: each page that a child touches is copied for it
        if sys.stdout is not None:
            sys.stdout.flush()
        if sys.stderr is not None:
            sys.stderr.flush()
    except (OSError, ValueError):
        pass  # closed, or nobody reads it any more


def leave_threads() -> None:
    """End the process here if the target's module has left threads running.

    Python would wait for them, and they may never end.
    """
    threading = sys.modules.get("threading")
    if threading is not None and any(not one.daemon for one in threading.enumerate()[1:]):
        flush()
        os._exit(0)
