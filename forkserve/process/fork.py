"""Fork: the one way a process of ours is made, and the one way it leaves."""

import contextlib
import os
import signal
import sys
from collections.abc import Callable

from forkserve import signals
from forkserve.log import log


def fork(child: Callable[[], int], prepare: Callable[[], None] | None = None) -> int:
    """Run child in a new process that exits with what it returns; return the new process's id.

    Signals are held back until the child has done prepare(), where it installs its own handlers
    and wakeup, so none is handled by the parent's in its name. Raises OSError if there is no room
    for a process (fork(2): EAGAIN, ENOMEM).
    """
    _flush()
    mask = signals.block()
    try:
        pid = os.fork()
        if pid == 0:
            _live(child, prepare, mask)
        return pid
    finally:
        signals.restore(mask)


def _live(child: Callable[[], int], prepare: Callable[[], None] | None, mask: object) -> None:
    """Be the child. Never returns: the parent's stack below must not run twice."""
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        if prepare is not None:
            prepare()
        signals.restore(mask)  # type: ignore[arg-type]
        status = child()
    except BaseException as error:
        log.error("process %d failed", os.getpid(), traceback=error)
    finally:
        _flush()
        os._exit(status)


def _flush() -> None:
    """Write out what print() has buffered, so that it appears once."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
