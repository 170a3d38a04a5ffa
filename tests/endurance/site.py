"""A folder whose code is deployed again and again while forkserve serves it."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.endurance.load import BODY_SIZE
from tests.support import clients
from tests.support.modes import Mode
from tests.support.server import Server, running
from tests.support.waiting import Stopwatch, becomes, pause

HANDLER = """\
from tests.handlers import reloadable


class Echo(reloadable.Echo):
    version = VERSION
"""
ADOPTED = """\
import socketserver
from tests.handlers import reloadable


class Echo(reloadable.StockEcho):
    version = VERSION


server = socketserver.SERVER(ADDRESS, Echo)
"""


@dataclass(frozen=True, slots=True)
class Code:
    """What is deployed: the source, the version in it left open, and the target in it."""

    source: str
    target: str
    file: str = "app.py"


class Site:
    """A server and the code that it serves; every deploy is a new version, as long as the last."""

    def __init__(self, server: Server, folder: Path, code: Code) -> None:
        self.server = server
        self.file = folder / code.file
        self.version = 1000
        self._source = code.source
        self._generation = 1

    def deploy(self, source: str = "") -> None:
        """Replace the file at one blow by a new version of our code, or of this code."""
        self.version += 1
        draft = self.file.with_suffix(".draft")
        draft.write_text((source or self._source).replace("VERSION", str(self.version)))
        os.replace(draft, self.file)

    def broken_by(self, lines: str) -> str:
        """Return our code with these lines after it."""
        return f"{self._source}\n\n{lines}"

    def reload(self) -> float:
        """Reload what is deployed, which must be good; return how long it took."""
        watch = Stopwatch()
        self.server.signal(signal.SIGHUP)
        ready = rf"generation (\d+) is ready; generation {self._generation} finishes"
        self._generation = int(self.server.wait_for_line(ready, 30)[1])
        return watch.seconds

    def fail_to_reload(self) -> tuple[str, float]:
        """Reload what is deployed, which must not be good; return the reason and the seconds."""
        watch = Stopwatch()
        self.server.signal(signal.SIGHUP)
        failed = rf"reload failed: (.*); generation {self._generation} goes on serving"
        return self.server.wait_for_line(failed, 30)[1], watch.seconds

    def storm(self, times: int, interval: float) -> None:
        """Deploy and ask for a reload so many times, without waiting for one to end."""
        for _ in range(times):
            self.deploy()
            self.server.signal(signal.SIGHUP)
            pause(interval)

    def wait_until_served(self, timeout: float = 10.0) -> None:
        """Wait until the version that was deployed last is the one that answers."""
        becomes(self.version, self.served_version, timeout)

    def served_version(self) -> int:
        """Return the version that answers a new connection."""
        return int(clients.ask(self.server.address, b"version\n", 30))

    def leaders(self) -> set[int]:
        """Return the processes that lead a generation."""
        return self._children_of({self.server.pid})

    def workers(self) -> set[int]:
        """Return the processes that accept connections."""
        return self._children_of(self.leaders())

    def _children_of(self, parents: set[int]) -> set[int]:
        return {one.pid for one in self.server.processes() if one.parent in parents}

    def wait_for_one_generation(self, workers: int, timeout: float = 30.0) -> None:
        """Wait until there is one leader, with so many workers."""
        becomes((1, workers), lambda: (len(self.leaders()), len(self.workers())), timeout)


@contextmanager
def serving(
    code: Code, folder: Path, mode: Mode, *flags: str, address: str = "", expect: str | None = None
) -> Iterator[Site]:
    """Serve the code in a folder; without an address, at the one that its server object names."""
    addresses = [address] if address else []
    (folder / code.file).write_text(code.source.replace("VERSION", "1000"))
    with running(
        code.target, *mode.arguments, *flags, address=addresses, expect=expect, cwd=folder
    ) as server:
        server.wait_until_ready(1)
        site = Site(server, folder, code)
        assert site.workers(), "no worker is seen, so nothing could be said of them"
        yield site


@contextmanager
def straddling(address: str) -> Iterator[None]:
    """Hold a connection in service during the block; it must be served to its end afterwards."""
    half = os.urandom(BODY_SIZE // 2)
    with clients.connect(address, 30) as client:
        client.sendall(half)
        assert clients.read_exactly(client, len(half)) == half
        yield
        assert clients.exchange(client, half) == half
