"""Die, leave strangers behind, and start programs, as each line of the connection says."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable

import forkserve

# What a target starts when it is imported is its own affair, and its status must be right.
PROGRAM = [sys.executable, "-ISc", "raise SystemExit(7)"]
AT_IMPORT = "PROGRAM_AT_IMPORT" in os.environ and subprocess.run(PROGRAM, check=False).returncode


def die(name: str) -> str:
    """Die by a signal, which the kernel may deliver to another thread than this."""
    os.kill(os.getpid(), getattr(signal, f"SIG{name}"))
    threading.Event().wait()
    return "never"


def leave(code: str) -> str:
    """Leave without a word to Python."""
    os._exit(int(code))


def make_strangers(count: str) -> str:
    """Fork so many grandchildren that exit with 3, orphaned by their parents at once."""
    for _ in range(int(count)):
        child = os.fork()
        if child == 0:
            if os.fork() == 0:
                os._exit(3)
            os._exit(0)
        os.waitpid(child, 0)
    return count


def run_program(code: str) -> str:
    """Return the status of a program of the handler's own."""
    program = subprocess.Popen(["sh", "-c", f"exit {int(code)}"])
    return str(program.wait())


def stay() -> str:
    """Wait where no end of the connection interrupts."""
    threading.Event().wait()
    return "never"


ACTS: dict[str, Callable[..., str]] = {
    "die": die,
    "leave": leave,
    "strangers": make_strangers,
    "program": run_program,
    "stay": stay,
    "pid": lambda: str(os.getpid()),
    "parent": lambda: str(os.getppid()),
    "at-import": lambda: str(AT_IMPORT),
    "echo": lambda text: text,
}


class Stream(forkserve.StreamHandler):
    """Act on each line, and answer it with one; after `announce` say first that it begins.

    What is no line, but ends with the input, is sent back.
    """

    def handle(self) -> None:
        """Do what each line says."""
        for line in self.rfile:
            self.connection.send_all(self._act(line) if line.endswith(b"\n") else line)

    def _act(self, line: bytes) -> bytes:
        name, *arguments = line.decode().split()
        if name == "announce":
            self.connection.send_all(b"started\n")
            name, *arguments = arguments
        return f"{ACTS[name](*arguments)}\n".encode()
