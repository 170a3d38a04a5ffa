"""Signals: masked across fork, handled by flags."""

import os
import signal
from _signal import pthread_sigmask  # type: ignore[import-not-found]
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

Mask = Collection[int]
Handler = Callable[[int, FrameType | None], object]

if TYPE_CHECKING:
    from signal import Handlers

    Disposition = Handler | int | Handlers | None

# Sent by a parent to the process that serves a connection in its main thread, where no flag ends a
# blocked recv (PEP 475): its handler shuts that connection down. Ignored by default (signal(7)), so
# a process that has no handler for it is not hurt.
INTERRUPT = signal.SIGURG

# What ends a server, and what else its user may ask of it.
ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
REQUESTS = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTTIN, signal.SIGTTOU)

# Have the stacks of a process's threads written: see stacks.py. The second has no other meaning
# (signal(7)).
SHOW_STACKS = signal.SIGUSR2
DUMP_STACKS = signal.SIGRTMAX
REQUESTS_BUT_SHOW = tuple(number for number in REQUESTS if number != SHOW_STACKS)

INTERRUPTED = 130  # the exit status that a shell gives to who was ended by Ctrl-C

_HANDLED = (*ENDING, *REQUESTS, signal.SIGCHLD, INTERRUPT)
# As plain numbers, and by the C function: making enums of them touches 60 pages of each child.
_HANDLED_NUMBERS = tuple(map(int, _HANDLED))
_SIG_BLOCK, _SIG_SETMASK = int(signal.SIG_BLOCK), int(signal.SIG_SETMASK)


def take_over_at_boot(status: int = 0) -> None:
    """Let TERM, INT and QUIT end a process with this status that has nothing to clean up yet.

    The first thing the command does: as PID 1 the kernel discards signals that have no handler
    (pid_namespaces(7)), and a parent may have left them blocked or ignored.
    """
    for number in ENDING:
        signal.signal(number, lambda *_: os._exit(status))
    for number in REQUESTS:
        signal.signal(number, _do_nothing)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDLED)


def raise_when_ended() -> None:
    """Let the first of TERM, INT and QUIT raise KeyboardInterrupt, in a process that must clean up.

    No other one disturbs it then.
    """

    def end(number: int, frame: FrameType | None) -> None:
        for other in ENDING:
            signal.signal(other, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in ENDING:
        signal.signal(number, end)


def _do_nothing(number: int, frame: FrameType | None) -> None:
    pass


@contextmanager
def handled(handlers: "Mapping[int, Disposition]", wakeup_descriptor: int) -> Iterator[None]:
    """Install handlers, and the descriptor that each signal writes to, for the time of a block.

    In the main thread only (signal(2)); handlers only set flags.
    """
    before = install(handlers)
    descriptor = signal.set_wakeup_fd(wakeup_descriptor, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(descriptor)
        install(before)


def install(handlers: "Mapping[int, Disposition]") -> "dict[int, Disposition]":
    """Install handlers and return the ones they replace."""
    return {
        number: signal.signal(number, signal.SIG_DFL if handler is None else handler)
        for number, handler in handlers.items()
    }


def block() -> Mask:
    """Hold back every signal we handle, and return the mask to restore."""
    mask: Mask = pthread_sigmask(_SIG_BLOCK, _HANDLED_NUMBERS)
    return mask


def without_ours(mask: Mask) -> Mask:
    """Return a mask that holds back nothing that we handle."""
    return [number for number in mask if number not in _HANDLED_NUMBERS]


def end_comes_within(seconds: float) -> bool:
    """Wait, while signals are held back; whether one that ends us has come: it still holds."""
    came = signal.sigtimedwait(ENDING, seconds)
    if came is not None:
        os.kill(os.getpid(), came.si_signo)
    return came is not None


def restore(mask: Mask) -> None:
    """Let through what block() held back."""
    pthread_sigmask(_SIG_SETMASK, mask)
