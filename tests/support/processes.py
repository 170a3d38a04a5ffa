"""Read what the kernel says of processes."""

import contextlib
import os
import select
import stat
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Process:
    """One line of the kernel's table of processes."""

    pid: int
    parent: int
    state: str
    name: str


def look_up(pid: int) -> Process | None:
    """Return the process of this number, a zombie too, or None."""
    try:
        line = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    name, _, rest = line.partition("(")[2].rpartition(")")
    state, parent = rest.split()[:2]
    return Process(pid, int(parent), state, name)


def descendants(pid: int) -> list[Process]:
    """Return the children of a process, their children and so on, parents first."""
    numbers = (int(entry) for entry in os.listdir("/proc") if entry.isdigit())
    table = [process for number in numbers if (process := look_up(number))]
    found: list[Process] = []
    generation = {pid}
    while generation:
        born = [process for process in table if process.parent in generation]
        found += born
        generation = {process.pid for process in born}
    return found


def tree(pid: int) -> list[Process]:
    """Return a process and its descendants, parents first, zombies too."""
    root = look_up(pid)
    return [root, *descendants(pid)] if root else []


def descriptors(pid: int) -> dict[int, str]:
    """Return the open descriptors of a process and what each is."""
    found = {}
    with contextlib.suppress(FileNotFoundError):
        for entry in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(FileNotFoundError):
                found[int(entry)] = os.readlink(f"/proc/{pid}/fd/{entry}")
    return found


def threads(pid: int) -> list[int]:
    """Return the kernel's thread numbers of a process."""
    try:
        return sorted(map(int, os.listdir(f"/proc/{pid}/task")))
    except FileNotFoundError:
        return []


def cpu_seconds(pid: int) -> float:
    """Return the processor time that the live threads of a process have had, to the nanosecond."""
    nanoseconds = 0
    for thread in threads(pid):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            text = Path(f"/proc/{pid}/task/{thread}/schedstat").read_text()
            nanoseconds += int(text.split()[0])
    return nanoseconds / 1e9


def catches(pid: int, number: int) -> bool:
    """Tell whether a process has a handler for a signal."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    mask = int(status.partition("SigCgt:")[2].split()[0], 16)
    return bool(mask >> (number - 1) & 1)


def wait_until_gone(pid: int, timeout: float = 20.0) -> bool:
    """Wait until a process has ended, a zombie counting as ended; tell whether it did in time."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(timeout * 1000))
    finally:
        os.close(descriptor)


def socket_files(folder: Path) -> list[Path]:
    """Return the Unix sockets below a folder."""
    found = []
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            if stat.S_ISSOCK(path.lstat().st_mode):
                found.append(path)
    return found
