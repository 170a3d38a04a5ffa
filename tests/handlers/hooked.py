"""Tell which hooks have run, and where; the handler shares what they open."""

import json
import os
import sys
import threading
from typing import Any, NoReturn

import forkserve

IMPORTED = os.getpid()
opened: list[list[Any]] = []  # [hook, process] for each that ran in this process or before its fork


def note(hook: str) -> None:
    """Write down that a hook ran, for the handler and at the end of the test's journal."""
    opened.append([hook, os.getpid()])
    with open(os.environ["JOURNAL"], "a") as journal:
        journal.write(json.dumps([hook, os.getpid(), os.getppid()]) + "\n")


def leader_start() -> None:
    """Note the call."""
    note("leader_start")


def worker_start() -> None:
    """Note the call."""
    note("worker_start")


def worker_stop() -> None:
    """Note the call."""
    note("worker_stop")


def takes_its_time() -> None:
    """Note the begin and the end of what takes a moment."""
    note("begins")
    threading.Event().wait(0.2)
    note("ends")


def raises() -> NoReturn:
    """Fail as a connection to a database does."""
    raise ValueError("no database")


def exits() -> NoReturn:
    """Leave, as code that was a program once does."""
    sys.exit(0)


def leaves() -> NoReturn:
    """Leave without a word."""
    os._exit(9)


def hangs() -> None:
    """Wait for what never comes."""
    threading.Event().wait()


no_function = "a string"


class Tell(forkserve.StreamHandler):
    """Answer each line with what the hooks have opened."""

    def handle(self) -> None:
        """Answer in JSON."""
        for line in self.rfile:
            seen = {
                "pid": os.getpid(),
                "parent": os.getppid(),
                "imported": IMPORTED,
                "opened": opened,
            }
            if line.strip() == b"wait":
                self.connection.send_all(b"started\n")
                threading.Event().wait()
            self.connection.send_all(json.dumps(seen).encode() + b"\n")


class Hooked(Tell):
    """Has the hooks as methods of the class."""

    @classmethod
    def leader_start(cls) -> None:
        """Note the call."""
        note(f"{cls.__name__}.leader_start")

    @classmethod
    def worker_start(cls) -> None:
        """Note the call."""
        note(f"{cls.__name__}.worker_start")

    @staticmethod
    def worker_stop() -> None:
        """Note the call."""
        note("Hooked.worker_stop")


class RaisesAtStop(Tell):
    """Fails when it is all over."""

    @staticmethod
    def worker_stop() -> NoReturn:
        """Fail."""
        raise ValueError("no database")
