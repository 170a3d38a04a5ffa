"""Short connections as fast as can be: load.c where there is a compiler, else forkserve.bench's.

The latter is slower, so a fast server waits for it more often: compare figures of one of them only.
"""

import itertools
import json
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple, Self

from forkserve.bench.conversation import (
    CutShort,
    Read,
    ReadExactly,
    ReadToEnd,
    Send,
    Step,
    Talk,
    WrongAnswer,
)
from forkserve.bench.figures import percentile
from forkserve.bench.load import Order

HERE = Path(__file__).resolve().parent
PATIENCE = 10.0
NAMES = {  # of load.c, and what forkserve.bench calls them
    "ok": "ok",
    "refused": "refused",
    "reset_connecting": "reset while connecting",
    "connect_timeout": "connect timeout",
    "lost": "cut short",
    "unanswered": "unanswered",
    "wrong": "wrong answer",
    "other": "other",
}
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


class Echo(NamedTuple):
    """64 bytes there and back, others on each connection."""

    shape: str

    def __call__(self, number: int, /) -> Talk:
        """Return the exchange of a number."""
        message = b"%064x" % (number * 0x9E3779B97F4A7C15)
        yield Send(message)
        reads: dict[str, Step] = {"server": ReadToEnd(), "datagram": Read()}
        answer = yield reads.get(self.shape, ReadExactly(64))
        if answer != message:
            raise CutShort if message.startswith(answer) else WrongAnswer


def in_words_of_c(said: bytes) -> dict[str, Any]:
    """Return what a client process of forkserve.bench has counted as load.c would print it."""
    result = pickle.loads(said)
    counts = {name: result.outcomes[of] for name, of in NAMES.items()}
    counts["lost"] += result.outcomes["reset"]
    times = sorted(result.latencies)
    late = {f"p{p}_us": percentile(times, p / 100) * 1e6 for p in (50, 90, 99)}
    return {"generator": "Python", "seconds": result.seconds, **counts, **late}


class Generator:
    """Makes load; a context manager, for what it compiled."""

    def __init__(self, cpus: Iterable[int] | None = None) -> None:
        self.cpus = cpus
        self.command = [sys.executable, "-m", "forkserve.bench.client"]
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
        source = next(self.sources)
        numbers = [str(at_a_time), str(rate), str(seconds), source, str(patience)]
        arguments = [str(port), shape, *numbers] if self.language == "C" else []
        running = subprocess.Popen(
            [*self.command, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            preexec_fn=self._pin,
        )
        if self.language == "Python":
            address = f"{'udp' if shape == 'datagram' else 'tcp'}://127.0.0.1:{port}"
            order = Order(address, at_a_time, seconds, rate=rate, patience=patience, source=source)
            assert running.stdin
            running.stdin.write(pickle.dumps((order, Echo(shape))))
            running.stdin.close()
            running.stdin = None
        return running

    def finish(self, running: "subprocess.Popen[bytes]", seconds: float) -> dict[str, Any]:
        """Wait for the end of a run and return what it counted."""
        said, _ = running.communicate(timeout=seconds + PATIENCE + 20)
        return dict(json.loads(said)) if self.language == "C" else in_words_of_c(said)

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
