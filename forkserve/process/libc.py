"""What only the C library can ask of the kernel, or of itself."""

import ctypes
import os

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None, use_errno=True)


def adopt_orphans() -> None:
    """Become the parent of every descendant whose parent dies (prctl(2))."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(parent: int, number: int) -> None:
    """Get this signal when our parent, a process of this id, has died; 0 takes that back.

    Lost with a change of user. The signal comes when the thread ends that forked us, which is a
    single-threaded process's only one (prctl(2)).
    """
    _prctl(_PR_SET_PDEATHSIG, number)
    if number and os.getppid() != parent:
        os.kill(os.getpid(), number)


def trim_heap() -> None:
    """Give memory that was freed back to the system, where the C library can (malloc_trim(3))."""
    trim = getattr(_libc, "malloc_trim", None)
    if trim is not None:
        trim(0)


def _prctl(option: int, argument: int) -> None:
    if _libc.prctl(option, ctypes.c_ulong(argument), 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}): {os.strerror(number)}")
