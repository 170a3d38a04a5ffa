"""Name this process for ps, top and pgrep."""

import contextlib
import functools
import importlib
from collections.abc import Callable


def show(short: str, text: str) -> None:
    """Be called short (15 bytes at most) by /proc and, where setproctitle is installed, text by ps.

    The first call looks for setproctitle: made before a fork, it serves every process after.
    """
    set_title = _find_setproctitle()
    if set_title is not None:
        with contextlib.suppress(Exception):  # a name is not worth an error
            set_title(text)
    with contextlib.suppress(OSError), open("/proc/self/comm", "wb") as file:
        file.write(short.encode())  # after setproctitle, which puts its own text here as well


@functools.cache
def _find_setproctitle() -> Callable[[str], None] | None:
    try:
        found: Callable[[str], None] = importlib.import_module("setproctitle").setproctitle
    except Exception:  # not installed, or built for another Python
        return None
    return found
