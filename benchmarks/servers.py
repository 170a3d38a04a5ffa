"""Start a server as a user would, know its port, and stop it."""

import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks.cpu import cpu_seconds, tree

CHECKOUT = Path(__file__).resolve().parent.parent
READY = re.compile(rb"listening on (?:tcp|udp)://127\.0\.0\.1:(\d+)")
BOOT_TIMEOUT = 20.0
STOP_TIMEOUT = 40.0


def forkserve(handler: str, mode: str, *options: str) -> list[str]:
    """Return the command that serves one of our handlers in a mode."""
    target = f"benchmarks/handlers.py:{handler}"
    command = [sys.executable, "-m", "forkserve", "run", target, "-m", mode]
    scheme = "udp" if handler == "OneDatagram" else "tcp"
    return [*command, "-b", f"{scheme}://127.0.0.1:0", *options]


def peer(module: str, *arguments: str) -> list[str]:
    """Return the command that serves with one of the others."""
    return [sys.executable, "-m", f"benchmarks.{module}", *arguments]


class Server:
    """A server process; a context manager that stops it and closes its account."""

    def __init__(self, command: Sequence[str], cpus: Iterable[int] | None = None) -> None:
        self.command, self.cpus = command, cpus

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(
            self.command, cwd=CHECKOUT, stderr=subprocess.PIPE, preexec_fn=self._pin
        )
        assert self.process.stderr
        self.pid, self._stderr = self.process.pid, self.process.stderr
        self.pidfd = os.pidfd_open(self.pid)
        try:
            self.port = self._read_port()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind:
            self.kill()
        elif self.process.returncode is None:
            known = cpu_seconds(self.pid)
            if self.stop() < known * 0.98 - 0.1:
                raise RuntimeError(f"processes left the tree of {self.command}: CPU not known")

    def ends_within(self, seconds: float) -> bool:
        """Let a server settle, and tell whether it has ended instead."""
        return bool(select.select([self.pidfd], [], [], seconds)[0])

    def stop(self) -> float:
        """End the server, every process of it, and return all the CPU it used."""
        os.kill(self.pid, signal.SIGTERM)
        if not self.ends_within(STOP_TIMEOUT):
            self.kill()
            raise RuntimeError(f"{self.command} did not stop")
        return self._collect()

    def kill(self) -> None:
        """End the server without asking."""
        for pid in reversed(tree(self.pid)):
            os.kill(pid, signal.SIGKILL)
        self._collect()

    def said(self) -> str:
        """Return what an ended server wrote since it was ready."""
        return self._stderr.read().decode(errors="replace")

    def _collect(self) -> float:
        _, status, usage = os.wait4(self.pid, 0)
        self.process.returncode = os.waitstatus_to_exitcode(status)
        os.close(self.pidfd)
        return usage.ru_utime + usage.ru_stime

    def _pin(self) -> None:
        if self.cpus is not None:
            os.sched_setaffinity(0, self.cpus)

    def _read_port(self) -> int:
        said = b""
        while not (match := READY.search(said)):
            ready, _, _ = select.select([self._stderr], [], [], BOOT_TIMEOUT)
            data = os.read(self._stderr.fileno(), 4096) if ready else b""
            said += data
            if not data:
                raise RuntimeError(f"{self.command} did not get ready:\n{said.decode()}")
        return int(match[1])
