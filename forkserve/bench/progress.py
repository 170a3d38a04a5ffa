"""Say how far a benchmark is: a bar on a terminal, a plain line a turn elsewhere."""

import os
import sys
from types import TracebackType
from typing import Any, Self


class Progress:
    """A context manager; step() once a turn. Writes to standard error."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._done = 0
        self._out = sys.stderr or open(os.devnull, "w")  # noqa: SIM115 - as long as we live
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Self:
        if self._out.isatty():
            try:
                from rich.console import Console
                from rich.progress import Progress as Bar
            except ImportError:
                return self
            self._bar = Bar(console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task("", total=self._steps)
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self._out.isatty():
            self._out.write("\r\x1b[K")
            self._out.flush()

    def step(self, text: str) -> None:
        """Say that one more is done, and what it was."""
        self._done += 1
        if self._bar is not None:
            self._bar.update(self._task, advance=1, description=text)
        elif self._out.isatty():
            self._out.write(f"\r\x1b[K{self._done}/{self._steps} {text}")
            self._out.flush()
        else:
            self._out.write(f"{self._done}/{self._steps} {text}\n")
