"""Start forkserve as a user does, and end it without leaving anything behind."""

import contextlib
import os
import re
import select
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from signal import SIGKILL, SIGSTOP, SIGTERM
from typing import Any

from tests.support import processes
from tests.support.output import Output
from tests.support.processes import Process

ROOT = Path(__file__).resolve().parents[2]
HANDLERS = "tests/handlers"
TCP = "tcp://127.0.0.1:0"
READY = r"^forkserve: listening on (\S+)$"
FORKSERVE = [sys.executable, "-W", "always", "-m", "forkserve"]

# Our own pytest process adopts the orphans of every server, so that none goes unnoticed.
_started: list["Server"] = []


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment for a server: ours without what would change its behaviour."""
    ours = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "FORKSERVE_", "LISTEN_", "NOTIFY_"))
    }
    return {**ours, "PYTHONUNBUFFERED": "", **(extra or {})}


def handler(name: str) -> str:
    """Return the target of a handler of ours, `echo.py:Stream` for example."""
    return f"{ROOT}/{HANDLERS}/{name}"


def run_command(
    *arguments: str,
    env: Mapping[str, str] | None = None,
    cwd: Path = ROOT,
    under: Sequence[str] = (),
    timeout: float = 20.0,
) -> subprocess.CompletedProcess[str]:
    """Run the command to its end and return what it printed and its status."""
    extra = {"PYTHONPATH": str(ROOT), **(env or {})}
    return subprocess.run(
        [*under, *FORKSERVE, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=environment(extra),
        cwd=cwd,
        timeout=timeout,
        check=False,
    )


def started() -> list["Server"]:
    """Return the servers started since the last call, and forget them."""
    servers = _started[:]
    _started.clear()
    return servers


class Server:
    """One running `forkserve run`, its output and its processes."""

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        expect: str | None = None,
        under: Sequence[str] = (),
        nested: bool = False,
        env: Mapping[str, str] | None = None,
        cwd: Path = ROOT,
        pass_fds: Sequence[int] = (),
    ) -> None:
        """Start it; `expect` is what its errors may say, `nested` that `under` stays on top."""
        self.expect = expect
        self.addresses: list[str] = []
        self.ended_by_force = False
        self.destroyed = False
        self.orphans: set[int] = set()
        self._nested = nested
        self._process = subprocess.Popen(
            [*under, *FORKSERVE, "run", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment({"PYTHONPATH": str(ROOT), **(env or {})}),
            cwd=cwd,
            pass_fds=pass_fds,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._ended = os.pidfd_open(self._process.pid)
        self._stdout = Output(self._process.stdout)
        self._stderr = Output(self._process.stderr)
        self.status: int | None = None
        _started.append(self)

    @property
    def pid(self) -> int:
        """Return the process that takes the signals."""
        if not self._nested:
            return self._process.pid
        return processes.descendants(self._process.pid)[0].pid

    @property
    def address(self) -> str:
        """Return the first address."""
        return self.addresses[0]

    def wait_until_ready(self, count: int, timeout: float = 30.0) -> None:
        """Wait for the ready lines, and take the addresses from them."""
        lines = self._stderr.wait_for(READY, timeout, count=count)
        self.addresses = [line[1] for line in lines]

    def wait_for_line(
        self, pattern: str, timeout: float = 20.0, *, count: int = 1
    ) -> re.Match[str]:
        """Wait for so many lines on standard error and return the first one's match."""
        return self._stderr.wait_for(pattern, timeout, count=count)[0]

    def stderr_so_far(self) -> str:
        """Return what it wrote to standard error."""
        return self._stderr.text()

    def stdout_so_far(self) -> str:
        """Return what it wrote to standard output."""
        return self._stdout.text()

    def signal(self, number: int) -> None:
        """Send a signal to the supervisor."""
        os.kill(self.pid, number)

    def processes(self) -> list[Process]:
        """Return its processes, the supervisor first, zombies too."""
        return processes.tree(self.pid)

    def family(self) -> list[Process]:
        """Return its processes but the supervisor and its leaders: those that serve."""
        return [process for process in self.processes()[1:] if process.name != "fs-leader"]

    @property
    def leader(self) -> int:
        """Return the parent of the workers."""
        leaders = [one.pid for one in self.processes() if one.name == "fs-leader"]
        return leaders[-1] if leaders else self.pid

    def is_running(self) -> bool:
        """Tell whether the command has not ended yet."""
        return self.status is None and self._process.poll() is None

    def wait(self, timeout: float = 20.0) -> int:
        """Wait for the end and return the exit status."""
        if self.status is None:
            poll = select.poll()
            poll.register(self._ended, select.POLLIN)
            if not poll.poll(timeout * 1000):
                family = "\n".join(map(str, self.processes()))
                raise AssertionError(f"still running after {timeout} s\n{family}\n{self.report()}")
            self.status = self._process.wait()
            os.close(self._ended)
            self._stdout.close()
            self._stderr.close()
        return self.status

    def stop(self, number: int = SIGTERM, timeout: float = 20.0) -> int:
        """Ask it to end, and return the exit status."""
        if self.is_running():
            self.signal(number)
        return self.wait(timeout)

    def kill(self) -> None:
        """Kill the supervisor and nobody else."""
        self._kill([self.pid])

    def kill_all_parents(self) -> None:
        """Kill the supervisor and the leader at once, so that nobody cleans up; see all gone."""
        pids = [self.leader, self.pid]
        for pid in pids:
            os.kill(pid, SIGSTOP)
        self._kill(pids)
        assert all(processes.wait_until_gone(pid) for pid in self.orphans), self.report()

    def expect_orphans(self) -> None:
        """Let those who are below the supervisor now outlive it for a moment."""
        self.ended_by_force = True
        self.orphans = {process.pid for process in self.processes()[1:]}

    def _kill(self, pids: Sequence[int]) -> None:
        self.expect_orphans()
        for pid in pids:
            os.kill(pid, SIGKILL)
        self.wait()

    def destroy(self) -> None:
        """Kill every process of it, for a test that has failed already."""
        self.destroyed = self.ended_by_force = True
        for process in processes.tree(self._process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, SIGKILL)
        self.wait()

    def report(self) -> str:
        """Return what it wrote, for a failed test."""
        return f"standard error of forkserve:\n{self.stderr_so_far()}"


@contextlib.contextmanager
def starting(*arguments: str, expect: str | None = None, **options: Any) -> Iterator[Server]:
    """Start `forkserve run` with these arguments; the test waits, and ends it or lets us."""
    server = Server(arguments, expect=expect, **options)
    try:
        yield server
        server.stop()
    except BaseException as error:
        error.add_note(server.report())
        raise
    finally:
        if server.status is None:
            server.destroy()


@contextlib.contextmanager
def running(
    target: str,
    mode: str = "prefork",
    *flags: str,
    address: str | Sequence[str] = TCP,
    status: int | None = 0,
    **options: Any,
) -> Iterator[Server]:
    """Serve a handler until the block ends; the stop must then be orderly and leave nothing."""
    addresses = [address] if isinstance(address, str) else list(address)
    binds = [part for one in addresses for part in ("-b", one)]
    with starting(target, "-m", mode, *flags, *binds, **options) as server:
        server.wait_until_ready(len(addresses))
        yield server
        ended = server.stop()
        assert status is None or ended == status, f"exit status {ended}\n{server.report()}"
        if not server.ended_by_force:
            orphans = adopted()
            assert orphans == [], f"left behind: {orphans}\n{server.report()}"


def adopted() -> list[Process]:
    """Return our children that no running server accounts for."""
    known = {server._process.pid for server in _started if server.is_running()}
    known.update(*(server.orphans for server in _started))
    ours = (process for process in processes.descendants(os.getpid()) if process.pid not in known)
    return [
        process for process in ours if process.parent == os.getpid() and process.name != "strace"
    ]
