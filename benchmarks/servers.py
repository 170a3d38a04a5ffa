"""How our handlers and the peers' are started."""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from forkserve.bench import server
from forkserve.bench.server import forkserve_command

CHECKOUT = Path(__file__).resolve().parent.parent


class Server(server.Server):
    """A server that is started in the checkout."""

    def __init__(self, command: Sequence[str], cpus: Iterable[int] | None = None) -> None:
        super().__init__(command, cpus, folder=CHECKOUT)


def forkserve(handler: str, mode: str, *options: str) -> list[str]:
    """Return the command that serves one of our handlers in a mode."""
    scheme = "udp" if handler == "OneDatagram" else "tcp"
    address = f"{scheme}://127.0.0.1:0"
    return forkserve_command(f"benchmarks/handlers.py:{handler}", mode, "-b", address, *options)


def peer(module: str, *arguments: str) -> list[str]:
    """Return the command that serves with one of the others."""
    return [sys.executable, "-m", f"benchmarks.{module}", *arguments]
