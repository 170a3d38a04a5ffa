"""What a tree of processes uses, and what the rest of the machine does meanwhile."""

import contextlib
import os
import signal
import time
from pathlib import Path

# A server's CPU is read before and after a turn from the kernel's own accounts: of every process
# alive its clock (nanoseconds, threads that have ended included), plus what it has collected from
# children it reaped (10 ms steps that do not add up, since the kernel sums nanoseconds and rounds
# only what it shows). So start-up needs no guess, a process for each connection counts in full
# once it is reaped, and nothing is sampled. Two ways to escape the account are refused: ignoring
# SIGCHLD (the kernel then forgets the child's time) and leaving the tree, which Server.stop finds
# by comparing the last reading with what wait4 says of the whole server.
ATTEMPTS = 20
TICK = os.sysconf("SC_CLK_TCK")


def tree(pid: int) -> list[int]:
    """Return a process and all its living descendants."""
    found = [pid]
    for parent in found:
        try:
            for path in Path(f"/proc/{parent}/task").glob("*/children"):
                found += map(int, path.read_text().split())
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has just ended
    return found


def born(pid: int) -> str:
    """Return what tells a process from another that had its number before, or nothing."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def cpu_seconds(pid: int) -> float:
    """Return what a quiet server has used, from its first moment, with all its descendants.

    Begins again where one of them ends meanwhile, since its time then is in its parent's account.
    """
    for _ in range(ATTEMPTS):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, _Gone):
            return sum(_own(member) + _reaped(member) for member in tree(pid))
    return sum(_own(member) + _reaped(member) for member in tree(pid))


class _Gone(Exception):
    """A process has just ended."""


def _own(pid: int) -> float:
    try:
        return time.clock_gettime((~pid << 3) | 2)  # CPUCLOCK_SCHED of another process
    except OSError as error:
        raise _Gone(f"process {pid}") from error


def _reaped(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    ignored = int(status.split("SigIgn:")[1].split()[0], 16)
    if ignored >> (signal.SIGCHLD - 1) & 1:
        raise RuntimeError(f"process {pid} ignores SIGCHLD: its children's CPU cannot be known")
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[13]) + int(fields[14])) / TICK


def run_delay(pid: int) -> float:
    """Return the seconds that the living threads of a process and its descendants have waited.

    Waited for a CPU, while they could have run.
    """
    total = 0
    for member in tree(pid):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            for task in Path(f"/proc/{member}/task").iterdir():
                total += _thread_delay(task)
    return total / 1e9


def _thread_delay(task: Path) -> int:
    try:
        return int((task / "schedstat").read_text().split()[1])
    except (FileNotFoundError, ProcessLookupError, IndexError):
        return 0  # it has just ended, or the kernel keeps no such account


def memory(pid: int) -> int:
    """Return the bytes in memory of a process and its descendants, what they share counted once.

    PSS, see proc_pid_smaps(5); costs about a millisecond a process.
    """
    total = 0
    for member in tree(pid):
        try:
            rollup = Path(f"/proc/{member}/smaps_rollup").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        total += int(rollup.split("\nPss:")[1].split()[0]) * 1024
    return total


def available_memory() -> int:
    """Return how many bytes can still be used without swapping."""
    text = Path("/proc/meminfo").read_text()
    return int(text.split("MemAvailable:")[1].split()[0]) * 1024


def machine_cpu_seconds() -> float:
    """Return what all CPUs together have been busy for, what a hypervisor took included."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields)
    return (user + nice + system + irq + softirq + steal) / TICK
