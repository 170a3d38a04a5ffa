"""Say what happened: a line on standard error under the command, the logging module in a library.

``logging`` imports ``threading``, whose work after each fork makes a fork half as dear again, so a
process that forks for each connection must not have it just because forkserve might say something.
"""

import contextlib
import os
import select
import sys
import time

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_NAMES = {number: name.upper() for name, number in LEVELS.items()}


_ATOMIC = select.PIPE_BUF
QUIET = 5.0  # seconds between two lines about the same trouble


class Seldom:
    """Tells when trouble that goes on may be said again."""

    __slots__ = ("_due",)

    def __init__(self) -> None:
        self._due = 0.0

    def is_due(self, now: float) -> bool:
        """Whether it may; if so it is not for some seconds from now on."""
        if now < self._due:
            return False
        self._due = now + QUIET
        return True


class Log:
    """Where this process's events go."""

    __slots__ = ("_level",)

    def __init__(self) -> None:
        self._level: int | None = None

    def to_standard_error(self, level: str) -> None:
        """Write events of this level and above to descriptor 2, a line each."""
        self._level = LEVELS[level]

    def debug(self, message: str, *args: object) -> None:
        """Say what only a developer wants to know."""
        self._emit(10, message, args)

    def info(self, message: str, *args: object) -> None:
        """Say what an operator expects to see."""
        self._emit(20, message, args)

    def warning(self, message: str, *args: object) -> None:
        """Say what an operator should look at."""
        self._emit(30, message, args)

    def access(self, message: str, *args: object) -> None:
        """Say that a connection was served; the user asked for it, so no level hides it."""
        if self._level is None:
            self._emit(20, message, args)
        else:
            _write_event("ACCESS", message % args)

    def error(self, message: str, *args: object, traceback: BaseException | None = None) -> None:
        """Say what went wrong, with the traceback where the fault is in the user's code."""
        self._emit(40, message, args, traceback)

    def _emit(
        self,
        level: int,
        message: str,
        args: tuple[object, ...],
        traceback: BaseException | None = None,
    ) -> None:
        if self._level is None:
            import logging

            logging.getLogger("forkserve").log(level, message, *args, exc_info=traceback)
        elif level >= self._level:
            text = message % args if args else message
            if traceback is not None:
                text += "\n" + _format_traceback(traceback)
            _write_event(_NAMES[level], text)


def _write_event(kind: str, text: str) -> None:
    write_line(f"[{time.strftime('%Y-%m-%d %H:%M:%S %z')}] [{os.getpid()}] [{kind}] {text}")


def _format_traceback(error: BaseException) -> str:
    import traceback

    return "".join(traceback.format_exception(error)).rstrip()


def write_line(line: str) -> None:
    """Write one whole line to standard error, or drop it if that cannot take it."""
    with contextlib.suppress(OSError, ValueError):  # closed by the user's module
        if sys.stderr is not None:
            sys.stderr.flush()
    write_at_once(line)


def write_at_once(line: str) -> None:
    """Do the same, but overtake what Python has yet to write: also from a signal handler."""
    data = line.encode("utf-8", "backslashreplace") + b"\n"
    # A full disk, a closed pipe, or one that nobody reads must not stop the service.
    with contextlib.suppress(OSError):
        while data and _is_writable(2):
            data = data[os.write(2, data[:_ATOMIC]) :]


def _is_writable(descriptor: int) -> bool:
    """Whether so many bytes as a pipe takes at once can be written without waiting (pipe(7))."""
    look = select.poll()
    look.register(descriptor, select.POLLOUT)
    return any(event & select.POLLOUT for _, event in look.poll(0))


log = Log()
