"""Say why a process has died, or why it does not go on."""

import os
import signal

_STATES = {  # proc_pid_stat(5)
    "R": "running",
    "S": "sleeping",
    "D": "blocked, deaf to signals,",
    "T": "stopped",
    "t": "stopped by a debugger",
    "I": "idle",
}


def describe(code: int, *, core: bool = False) -> str:
    """Say how a process has ended, by its exit code; a signal's is negative."""
    if code >= 0:
        return f"exited with {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"  # a real-time one
    return f"was killed by {name}" + (" (core dumped)" if core else "")


def describe_stuck(pid: int) -> str:
    """Say what the main thread of a process does that cannot tell us itself."""
    state = _read(f"/proc/{pid}/stat").rpartition(") ")[2][:1]
    if state in ("", "Z", "X"):
        return "dead"
    text = _STATES.get(state, f"in state {state}")
    place = _read(f"/proc/{pid}/wchan").strip()
    if place not in ("", "0"):  # 0: nowhere in the kernel, or not ours to know
        text += f" in {place}"
    call = _read(f"/proc/{pid}/syscall").partition(" ")[0]
    if call.isdecimal():
        text += f", system call {call}"
    return text


def run_delay(pid: int) -> tuple[float, float] | None:
    """Return the seconds that a process's main thread has had a CPU, and has waited for one."""
    fields = _read(f"/proc/{pid}/schedstat").split()
    if len(fields) != 3:
        return None
    return int(fields[0]) / 1e9, int(fields[1]) / 1e9


class OomCounter:
    """How many processes of our memory cgroup the kernel has killed for want of memory.

    From when this is made, so that the first kill after counts.
    """

    def __init__(self, proc: str = "/proc/self") -> None:
        self._proc = proc
        self._count = self._read_count()

    def has_grown(self) -> bool:
        """Whether one was killed since the last call; never, where the kernel does not tell."""
        count, before = self._read_count(), self._count
        if count is not None:
            self._count = count
        return count is not None and before is not None and count > before

    def _read_count(self) -> int | None:
        cgroups, mounts = _read(f"{self._proc}/cgroup"), _read(f"{self._proc}/mountinfo")
        counts = (count_of_kills(_read(path)) for path in oom_files(cgroups, mounts))
        return next((count for count in counts if count is not None), None)


def count_of_kills(text: str) -> int | None:
    """Return the count in a memory.events or a memory.oom_control."""
    for line in text.splitlines():
        name, _, number = line.partition(" ")
        if name == "oom_kill":  # not in version 1 before Linux 4.13
            return int(number)
    return None


def oom_files(cgroups: str, mounts: str) -> list[str]:
    """Return where a process's kills may be counted, by its `cgroup` and `mountinfo` (proc(5))."""
    path_of = {}
    for line in cgroups.splitlines():
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            path_of["cgroup"] = path
        elif not controllers:
            path_of["cgroup2"] = path
    found = []
    for line in mounts.splitlines():
        front, _, back = line.partition(" - ")
        root, point = front.split(" ")[3:5]
        kind, _, options = back.split(" ", 2)
        if kind not in path_of or (kind == "cgroup" and "memory" not in options.split(",")):
            continue
        file = "memory.oom_control" if kind == "cgroup" else "memory.events"
        below = os.path.relpath(path_of[kind], root)  # a container sees its own part only
        found.append(os.path.normpath(os.path.join(point, below, file)))
    return found


def _read(path: str) -> str:
    """Return what the kernel says, or nothing where it does not."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:  # ProcessLookupError as well: it may end while we read
        return ""
