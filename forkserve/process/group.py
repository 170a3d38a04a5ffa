"""Reach what a worker leaves behind."""

import contextlib
import errno
import os
import signal

_PROCESS_GROUP = 4  # PIDFD_SIGNAL_PROCESS_GROUP, Linux 6.9 (pidfd_send_signal(2))


class Group:
    """The process group that a worker leads: itself, and whatever its handlers have started.

    By a descriptor, the group can be reached when the worker is long gone, and nobody else can be
    hit by mistake. Where the kernel has no such thing, only as long as its number is certain.
    """

    def __init__(self, leader: int) -> None:
        self._leader = leader
        self._descriptor: int | None = None
        with contextlib.suppress(OSError):
            self._descriptor = os.pidfd_open(leader)

    def signal(self, number: int, *, is_collected: bool = False) -> bool:
        """Signal every process of the group; whether there is one."""
        try:
            if self._descriptor is not None:
                signal.pidfd_send_signal(self._descriptor, number, None, _PROCESS_GROUP)
                return True
        except OSError as error:
            if error.errno != errno.EINVAL:
                return error.errno == errno.EPERM
        if is_collected:
            return False
        try:
            os.killpg(self._leader, number)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True

    def close(self) -> None:
        """Give the descriptor back."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
