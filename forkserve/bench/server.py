"""Start a server as a user would, know where it listens, and stop it."""

import contextlib
import errno
import os
import re
import select
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from forkserve.bench.usage import born, cpu_seconds, tree

READY = re.compile(r"listening on ((?:tcp|unix|udp|unixgram)://\S+)")
BOOT_TIMEOUT = 20.0
STOP_TIMEOUT = 40.0
STRAY_TIMEOUT = 10.0
SETTLE = 0.01  # seconds for a server to come to rest,
SETTLE_LOOKS = 10  # and so often the same again while processes are leaving
REMEMBERED = 100_000  # lines that a server has said


def not_outliving_us(command: Sequence[str], name: str) -> list[str]:
    """Return a command whose process gets this signal if we are killed (setpriv(1)).

    Raises FileNotFoundError.
    """
    if shutil.which(command[0]) is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), command[0])
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", name, *command] if setpriv else list(command)


def end_strays() -> None:
    """End the children that a signal, in the moment of their birth, kept from being known."""
    for pid in tree(os.getpid())[1:]:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(pid, signal.SIGTERM)
            descriptor = os.pidfd_open(pid)
            if not select.select([descriptor], [], [], STRAY_TIMEOUT)[0]:
                os.kill(pid, signal.SIGKILL)
            os.close(descriptor)
            os.wait4(pid, 0)


class ServerFailed(Exception):
    """A server did not start, ended by itself or could not be stopped.

    ``said`` is what it had to say, ``status`` its exit status, None if it did not end.
    """

    def __init__(self, what: str, said: str = "", status: int | None = None) -> None:
        super().__init__(f"{what}; it said:\n{said.rstrip()}" if said.strip() else what)
        self.what, self.said, self.status = what, said, status


def forkserve_command(target: str, mode: str, *options: str) -> list[str]:
    """Return the command that serves a target in a mode."""
    return [sys.executable, "-m", "forkserve", "run", target, "-m", mode, *options]


def find_address(said: str) -> str | None:
    """Return where a server listens that says so as forkserve does."""
    found = READY.search(said)
    return found[1] if found else None


class Server:
    """A server process; a context manager that stops it and closes its account.

    A thread of ours reads what it writes, so that it never waits for that.
    """

    def __init__(
        self,
        command: Sequence[str],
        cpus: Iterable[int] | None = None,
        *,
        folder: Path | None = None,
        environment: Mapping[str, str] | None = None,
        find_ready: Callable[[str], str | None] = find_address,
        boot_timeout: float = BOOT_TIMEOUT,
    ) -> None:
        self.command, self.cpus = list(command), cpus
        self.folder, self.environment = folder, environment
        self.find_ready = find_ready  # of all that was said so far; None: not ready yet
        self.boot_timeout = boot_timeout
        self.address = ""
        self._lines: deque[str] = deque(maxlen=REMEMBERED)
        self._news = threading.Condition()
        self._has_ended = False

    def __enter__(self) -> Self:
        try:
            self.process = self._start()
        except OSError as error:
            raise ServerFailed(
                f"{shlex.join(self.command)} cannot be started: {error.strerror}"
            ) from None
        self.pid = self.process.pid
        self.pidfd = os.pidfd_open(self.pid)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            with self._news:
                has_ended = self._news.wait_for(self._is_ready_or_over, self.boot_timeout)
        except BaseException:
            self.kill()
            raise
        if not self.address:
            if has_ended:
                self.ends_within(1)  # of its own accord, with a status of its own
            self.kill()
            how = "ended" if has_ended else f"did not get ready in {self.boot_timeout:g} s"
            status = self.process.returncode if has_ended else None
            raise ServerFailed(f"{shlex.join(self.command)} {how}", self.said(), status)
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
            try:
                known = cpu_seconds(self.pid)
            except BaseException:
                self.kill()
                raise
            if self.stop() < known * 0.98 - 0.1:
                raise RuntimeError(f"processes left the tree of {self.command}: CPU not known")

    @property
    def port(self) -> int:
        """The TCP or UDP port."""
        return int(self.address.rpartition(":")[2])

    def ends_within(self, seconds: float) -> bool:
        """Let a server settle, and tell whether it has ended instead."""
        return bool(select.select([self.pidfd], [], [], seconds)[0])

    def settle(self, members: int) -> None:
        """Wait until there are no more processes than that, so that who has ended is reaped.

        At most as long as that should take. Raises ServerFailed if the server ends meanwhile.
        """
        for _ in range(SETTLE_LOOKS):
            if self.ends_within(SETTLE):
                raise ServerFailed("the server ended under load", self.said())
            if len(tree(self.pid)) <= members:
                return

    def stop(self) -> float:
        """End the server, every process of it, and return all the CPU it used."""
        others = {pid: born(pid) for pid in tree(self.pid)[1:]}
        os.kill(self.pid, signal.SIGTERM)
        if not self.ends_within(STOP_TIMEOUT):
            self.kill()
            raise ServerFailed(f"{shlex.join(self.command)} did not stop")
        for pid, moment in others.items():
            if moment and moment == born(pid):  # left behind
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        return self._collect()

    def kill(self) -> None:
        """End the server without asking."""
        if self.process.returncode is None:
            for pid in self._freeze():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._collect()

    def _freeze(self) -> list[int]:
        """Keep a server from making new processes, and return all of them."""
        frozen: dict[int, None] = {}
        while new := [pid for pid in tree(self.pid) if pid not in frozen]:
            for pid in new:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSTOP)
                frozen[pid] = None
        return list(frozen)

    def said(self) -> str:
        """Return what the server has written so far."""
        with self._news:
            return "".join(self._lines)

    def _start(self) -> "subprocess.Popen[bytes]":
        ours = os.sched_getaffinity(0)
        if self.cpus is not None:
            os.sched_setaffinity(0, self.cpus)  # inherited
        try:
            return subprocess.Popen(
                not_outliving_us(self.command, "TERM"),
                cwd=self.folder,
                env=None if self.environment is None else {**os.environ, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                process_group=0,  # Ctrl-C is for us, who stop it then
            )
        finally:
            os.sched_setaffinity(0, ours)

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            with self._news:
                self._lines.append(line.decode(errors="replace"))
                self._news.notify_all()
        with self._news:
            self._has_ended = True
            self._news.notify_all()

    def _is_ready_or_over(self) -> bool:
        self.address = self.find_ready("".join(self._lines)) or ""
        return bool(self.address) or self._has_ended

    def _collect(self) -> float:
        _, status, usage = os.wait4(self.pid, 0)
        self.process.returncode = os.waitstatus_to_exitcode(status)
        os.close(self.pidfd)
        self._reader.join(1)
        assert self.process.stdout
        if not self._reader.is_alive():
            self.process.stdout.close()
        return usage.ru_utime + usage.ru_stime
