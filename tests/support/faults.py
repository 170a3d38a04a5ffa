"""Provoke what the machine does to a server once in a while."""

import contextlib
import os
import re
import resource
import signal
import subprocess
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

from tests.support import processes
from tests.support.output import Output
from tests.support.requirements import missing, requires
from tests.support.waiting import settled


@contextlib.contextmanager
def injecting(pids: Iterable[int], *injections: str, log: Path | None = None) -> Iterator[None]:
    """Let system calls of these processes fail, as strace is told, until the block ends.

    `accept4:error=EMFILE:when=1..20` for example; with a log, each such call is a line of it.
    """
    requires("strace")
    calls = ",".join(sorted({injection.partition(":")[0] for injection in injections}))
    injects = [part for one in injections for part in ("-e", f"inject={one}")]
    numbers = [*map(str, pids)]
    attach = [part for number in numbers for part in ("-p", number)]
    command = ["strace", "-f", "-o", str(log or "/dev/null"), "-e", f"trace={calls}"]
    tracer = subprocess.Popen([*command, *injects, *attach], stderr=subprocess.PIPE)
    assert tracer.stderr is not None
    output = Output(tracer.stderr)
    try:
        try:
            for number in numbers:
                output.wait_for(rf"Process {number} attached|not permitted")
        except AssertionError as error:
            raise AssertionError(f"strace did not attach: {error}") from None
        if "not permitted" in output.text():
            missing("the permission to trace")
        yield
    finally:
        tracer.send_signal(signal.SIGINT)
        tracer.wait(10)
        output.close()


@contextlib.contextmanager
def frozen(pids: Iterable[int]) -> Iterator[None]:
    """Let these processes stand still until the block ends."""
    held = list(pids)
    for pid in held:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in held:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


@contextlib.contextmanager
def out_of_descriptors(pids: Iterable[int]) -> Iterator[None]:
    """Let these processes get no further descriptor until the block ends."""
    before = {}
    for pid in pids:
        taken = settled(partial(processes.descriptors, pid))
        free = next(number for number in range(len(taken) + 1) if number not in taken)
        _, hard = limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (free, hard))
        before[pid] = limits
    try:
        yield
    finally:
        for pid, limits in before.items():
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)


class Fifo:
    """A FIFO of which each byte lets one waiting handler go on."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "fifo"
        os.mkfifo(self.path)
        self._end = os.open(self.path, os.O_RDWR)  # so that nobody waits in open()

    def release(self, count: int = 1) -> None:
        """Let so many handlers go on, also those that come to wait later."""
        os.write(self._end, b"." * count)

    def close(self) -> None:
        """Close our end."""
        os.close(self._end)


def lines_of(text: str, pattern: str) -> list[str]:
    """Return the lines of a log that match."""
    return [line for line in text.splitlines() if re.search(pattern, line)]
