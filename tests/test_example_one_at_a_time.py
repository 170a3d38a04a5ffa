"""The timeline of several clients at one server shows what each mode does to them."""

import re
import subprocess
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

from tests.support.server import ROOT

COLUMNS = 27
MODES = ["iterative", "thread", "process", "prefork"]
BAR = re.compile(
    r"^client (\d) ( *)(\.*)(#+) +([\d.]+) to ([\d.]+) s  pid (\d+) thread (\d+)$", re.MULTILINE
)


@dataclass
class Bar:
    """One client's line: columns and seconds from when to when it was served, and by whom."""

    first_column: int
    end_column: int
    began: float
    ended: float
    pid: int
    thread: int


def play(*arguments: str, cwd: Path = ROOT) -> str:
    """Return what the program printed, started with not one environment variable."""
    ran = subprocess.run(
        [
            "env",
            "-i",
            sys.executable,
            "-W",
            "error",
            ROOT / "examples/one_at_a_time.py",
            *arguments,
        ],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    return ran.stdout


def bars(printed: str) -> list[Bar]:
    """Return the lines of the clients, in the order in which they connected."""
    found = []
    for _, space, dots, hashes, began, ended, pid, thread in BAR.findall(printed):
        first = len(space + dots)
        columns = (first, first + len(hashes))
        found.append(Bar(*columns, float(began), float(ended), int(pid), int(thread)))
    return found


def are_served_at_once(clients: list[Bar]) -> bool:
    """Tell whether there is a moment at which all of them are being served."""
    return max(one.began for one in clients) < min(one.ended for one in clients)


def test_iterative_serves_one_after_another() -> None:
    """The second client waits in the backlog until the first has left, the third for the second."""
    clients = bars(play("iterative"))
    assert len(clients) == 3
    assert all(one.ended <= later.began for one, later in pairwise(clients))
    assert all(one.end_column <= later.first_column for one, later in pairwise(clients))
    assert clients[-1].end_column == COLUMNS
    assert len({(one.pid, one.thread) for one in clients}) == 1


def test_thread_serves_all_at_once_in_one_process() -> None:
    """Every client has a thread of its own, and they are served at the same time."""
    clients = bars(play("thread"))
    assert are_served_at_once(clients)
    assert len({one.pid for one in clients}) == 1
    assert len({one.thread for one in clients}) == 3


def test_process_serves_all_at_once_in_as_many_processes() -> None:
    """Every client has a process of its own, and they are served at the same time."""
    clients = bars(play("process"))
    assert are_served_at_once(clients)
    assert len({one.pid for one in clients}) == 3


def test_prefork_serves_as_many_at_once_as_it_has_workers() -> None:
    """Two clients are served at the same time by two processes; the third waits for one of them."""
    first, second, third = bars(play("prefork"))
    assert are_served_at_once([first, second])
    assert first.pid != second.pid
    assert third.began >= min(first.ended, second.ended)
    assert third.first_column >= min(first.end_column, second.end_column)
    assert third.pid in (first.pid, second.pid)


def test_it_plays_every_mode_from_any_folder(tmp_path: Path) -> None:
    """Without arguments each mode is played, says why, and fits into 80 columns."""
    lines = play(cwd=tmp_path).splitlines()
    assert [line for line in lines if line in MODES] == MODES
    assert len(bars("\n".join(lines))) == 12
    assert sum("Nobody waited" in line for line in lines) == 2
    assert max(map(len, lines)) <= 80


def test_it_plays_the_modes_and_clients_that_are_asked_for() -> None:
    """Modes are played in the order given, each with so many clients."""
    printed = play("--clients", "2", "prefork", "iterative")
    assert [line for line in printed.splitlines() if line in MODES] == ["prefork", "iterative"]
    assert len(bars(printed)) == 4


@pytest.mark.parametrize("wrong", [["fork"], ["--clients", "1"]])
def test_it_refuses_what_it_cannot_play(wrong: list[str]) -> None:
    """An unknown mode, or one client alone, is a usage error."""
    command = [sys.executable, "examples/one_at_a_time.py", *wrong]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=20, check=False)
    assert ran.returncode == 2
    assert b"Traceback" not in ran.stderr
