"""Raise outside of `handle`, for as long as the file named by BROKEN_WHILE is there."""

import os
import socketserver
from typing import Any

import forkserve


def _break() -> None:
    if os.path.exists(os.environ["BROKEN_WHILE"]):
        raise RuntimeError("raised on purpose")


class _Echo(forkserve.StreamHandler):
    def handle(self) -> None:
        """Send back each line."""
        for line in self.rfile:
            self.connection.send_all(line)


class Init(_Echo):
    """Raise when made."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        _break()
        super().__init__(*arguments, **options)


class Setup(_Echo):
    """Raise in `setup`."""

    def setup(self) -> None:
        """Raise."""
        _break()


class Finish(_Echo):
    """Raise in `finish`."""

    def finish(self) -> None:
        """Raise."""
        _break()


class _OldEcho(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        """Send back each line."""
        for line in self.rfile:
            self.wfile.write(line)


class OldInit(_OldEcho):
    """Raise when made, as a handler for `socketserver`."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        _break()
        super().__init__(*arguments, **options)


class OldSetup(_OldEcho):
    """Raise in `setup`, as a handler for `socketserver`."""

    def setup(self) -> None:
        """Raise."""
        _break()
        super().setup()


class OldFinish(_OldEcho):
    """Raise in `finish`, as a handler for `socketserver`."""

    def finish(self) -> None:
        """Raise."""
        super().finish()
        _break()
