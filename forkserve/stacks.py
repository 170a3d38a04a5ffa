"""Where the threads of this process are, on standard error.

Two ways. One in Python, while no other thread can run: it harms nothing. One in C, which works also
where no Python code can run, but reads the frames of threads that may go on meanwhile, and may
crash of it (https://github.com/python/cpython/issues/116008): for who is about to be killed.
"""

import faulthandler
import os
import sys
from _thread import get_ident
from types import FrameType

from forkserve import signals
from forkserve.log import write_at_once

MOST_FRAMES = 100


def write_when_asked() -> None:
    """Answer SHOW_STACKS in Python and DUMP_STACKS in C, in this process and its children."""
    signals.install({signals.SHOW_STACKS: _Answer().give})
    faulthandler.register(signals.DUMP_STACKS, file=2, all_threads=True)


class _Answer:
    """Is given whole: whoever asks in the middle of it is given another one after it."""

    __slots__ = ("_is_being_given", "_is_wanted_again")

    def __init__(self) -> None:
        self._is_being_given = False
        self._is_wanted_again = False

    def give(self, number: int, frame: FrameType | None) -> None:
        if self._is_being_given:
            self._is_wanted_again = True
            return
        self._is_being_given = True
        try:
            write_at_once(_list_threads(frame))
        except Exception:
            pass
        finally:
            self._is_being_given = False
        if self._is_wanted_again:
            self._is_wanted_again = False
            self.give(number, frame)


def _list_threads(frame: FrameType | None) -> str:
    mine, frames = get_ident(), sys._current_frames()
    if frame is not None:
        frames[mine] = frame
    lines = [f"stacks of process {os.getpid()}, most recent call first"]
    for ident, innermost in frames.items():
        lines.append(f"{'Current thread' if ident == mine else 'Thread'} {ident:#018x}:")
        lines += _list_calls(innermost)
    return "\n".join(lines)


def _list_calls(frame: FrameType | None) -> list[str]:
    calls: list[str] = []
    while frame is not None and len(calls) < MOST_FRAMES:
        code = frame.f_code
        calls.append(f'  File "{code.co_filename}", line {frame.f_lineno} in {code.co_qualname}')
        frame = frame.f_back
    return calls
