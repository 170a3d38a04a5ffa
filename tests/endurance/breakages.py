"""The ways in which deployed code can be broken, and what the log must say of each."""

from dataclasses import dataclass

BOOT_TIMEOUT = 2


@dataclass(frozen=True, slots=True)
class Breakage:
    """What is added to good code, or all of it; the reason given must match the pattern."""

    name: str
    lines: str
    reason: str
    hangs: bool = False
    is_all: bool = False

    @property
    def limit(self) -> float:
        """Return within how many seconds the failure must be reported."""
        return 2.0 + (BOOT_TIMEOUT if self.hangs else 0)


def _hook(name: str, line: str) -> str:
    """Return a handler with a hook, which does one thing."""
    return (
        "import os, signal, sys, threading\n\n\n"
        "class Echo(Echo):\n"
        "    @classmethod\n"
        f"    def {name}(*anything):\n"
        f"        {line}\n"
    )


def _die(name: str) -> str:
    return f"import os, signal, threading; os.kill(os.getpid(), signal.{name})"


BREAKAGES = (
    Breakage("syntax error", "def broken(:\n", "SyntaxError"),
    Breakage("bad indentation", "if True:\npass\n", "IndentationError"),
    Breakage("null byte", "x = '\0'\n", "null byte"),
    Breakage("missing module", "import no_such_module\n", "no_such_module"),
    Breakage("missing name", "from os import no_such_name\n", "no_such_name"),
    Breakage("exception", "raise RuntimeError('on purpose')\n", "RuntimeError: on purpose"),
    Breakage("endless recursion", "def f(): f()\n\nf()\n", "RecursionError"),
    Breakage("KeyboardInterrupt", "raise KeyboardInterrupt\n", "KeyboardInterrupt"),
    Breakage("sys.exit(0)", "import sys; sys.exit(0)\n", "SystemExit"),
    Breakage("sys.exit(1)", "import sys; sys.exit(1)\n", "SystemExit"),
    Breakage("sys.exit(3)", "import sys; sys.exit(3)\n", "SystemExit"),
    Breakage("sys.exit(4)", "import sys; sys.exit(4)\n", "SystemExit"),
    Breakage("os._exit(0)", "import os; os._exit(0)\n", r"\b0\b"),
    Breakage("os._exit(9)", "import os; os._exit(9)\n", r"\b9\b"),
    Breakage("SIGSEGV", _die("SIGSEGV"), "SIGSEGV"),
    Breakage("SIGABRT", _die("SIGABRT"), "SIGABRT"),
    Breakage("SIGKILL", _die("SIGKILL"), "SIGKILL"),
    Breakage("endless wait", "import threading; threading.Event().wait()\n", "boot", hangs=True),
    Breakage("endless loop", "while True:\n    pass\n", "boot", hangs=True),
    Breakage("closed descriptors", "import os; os.closerange(3, 256)\n", ""),
    Breakage("wrong type", "Echo = 42\n", "no handler"),
    Breakage("coroutine function", "async def Echo(connection):\n    pass\n", "coroutine"),
    Breakage("too many arguments", "def Echo(one, other):\n    pass\n", "argument"),
    Breakage("name gone", "del Echo\n", "Echo"),
    Breakage("handler of datagrams", "from tests.handlers.datagrams import Echo\n", "datagrams"),
    Breakage(
        "leader_start raises", _hook("leader_start", "raise OSError('on purpose')"), "purpose"
    ),
    Breakage("leader_start exits", _hook("leader_start", "sys.exit(3)"), "SystemExit|3"),
    Breakage("leader_start dies", _hook("leader_start", _die("SIGSEGV")), "SIGSEGV"),
    Breakage("worker_start raises", _hook("worker_start", "raise OSError('on purpose')"), ""),
    Breakage("worker_start exits", _hook("worker_start", "sys.exit(0)"), ""),
    Breakage("worker leaves", _hook("worker_start", "os._exit(9)"), r"\b9\b"),
    Breakage("worker dies", _hook("worker_start", _die("SIGKILL")), "SIGKILL"),
    Breakage(
        "worker hangs", _hook("worker_start", "threading.Event().wait()"), "boot|ready", hangs=True
    ),
)
EXPECTED = (
    r"reload failed|on purpose|SyntaxError|IndentationError|no_such|RecursionError|SystemExit|"
    r"KeyboardInterrupt|null byte|Bad file descriptor|worker \d+|leader \d+|process \d+ failed"
)
