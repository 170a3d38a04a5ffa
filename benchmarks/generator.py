"""The load generator: load.c where there is a compiler, else load.py."""

import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

HERE = Path(__file__).resolve().parent
PATIENCE = 10.0
GOOD = {"generator", "seconds", "ok", "p50_us", "p90_us", "p99_us"}


def compile_c(name: str, folder: str) -> str | None:
    """Return a program made of one of our C sources, None without a compiler that works."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return None
    program = f"{folder}/{Path(name).stem}"
    compile_it = [compiler, "-O2", "-o", program, str(HERE / name)]
    done = subprocess.run(compile_it, stderr=subprocess.DEVNULL, check=False)
    return program if done.returncode == 0 else None


class Failed(Exception):
    """A connection did not get what it asked for, so there is no figure."""


class Generator:
    """Makes load; a context manager, for what it compiled."""

    def __init__(self, cpus: Iterable[int] | None = None) -> None:
        self.cpus = cpus
        self.command = [sys.executable, str(HERE / "load.py")]
        self.language = "Python"
        # 127.0.0.0/8 is all loopback: each run connects from an address of its own
        self.sources = (f"127.{a}.{b}.7" for a, b in itertools.product(range(2, 250), range(250)))

    def __enter__(self) -> Self:
        self.folder = tempfile.TemporaryDirectory(prefix="forkserve-load-")
        if program := compile_c("load.c", self.folder.name):
            self.command, self.language = [program], "C"
        return self

    def __exit__(self, *_: object) -> None:
        self.folder.cleanup()

    def start(
        self,
        port: int,
        shape: str,
        seconds: float,
        at_a_time: int = 32,
        rate: float = 0,
        patience: float = PATIENCE,
    ) -> "subprocess.Popen[bytes]":
        """Start a run; `finish` has its result."""
        numbers = [str(at_a_time), str(rate), str(seconds), next(self.sources), str(patience)]
        return subprocess.Popen(
            [*self.command, str(port), shape, *numbers],
            stdout=subprocess.PIPE,
            preexec_fn=self._pin,
        )

    def finish(self, running: "subprocess.Popen[bytes]", seconds: float) -> dict[str, Any]:
        """Wait for the end of a run and return what it counted."""
        said, _ = running.communicate(timeout=seconds + PATIENCE + 20)
        return dict(json.loads(said))

    def run(self, port: int, shape: str, seconds: float, **options: Any) -> dict[str, Any]:
        """Return what a run without a single failure counted."""
        result = self.finish(self.start(port, shape, seconds, **options), seconds)
        failures = {name: n for name, n in result.items() if name not in GOOD and n}
        if failures or not result["ok"]:
            raise Failed(f"{failures} beside {result['ok']} good connections")
        return result

    def _pin(self) -> None:
        if self.cpus is not None:
            os.sched_setaffinity(0, self.cpus)
