"""What may go wrong with workers besides their deaths: what they inherit, how they boot."""

import ctypes
import json
import os
import platform
import signal
from itertools import combinations
from pathlib import Path

import pytest

from tests.support import clients
from tests.support.modes import ACTS, MODE, MODES, MOSTLY_PLAIN, Mode, named
from tests.support.processes import descriptors
from tests.support.requirements import requires, requires_root
from tests.support.server import ROOT, handler, running

every_mode = pytest.mark.parametrize("mode", MODES, ids=named(MODES))
mostly_plain = pytest.mark.parametrize("mode", MOSTLY_PLAIN)

READ_ONLY = 'for one in /tmp /dev/shm; do mount --bind -r $one $one; done; exec "$@"'


# -- what they inherit


@pytest.mark.parametrize(
    "flags", [("prefork", "-w", "8"), ("process",), ("process", "--spare", "4")]
)
def test_random_numbers(flags: tuple[str, ...]) -> None:
    """No two processes draw the same ones, although their parent had drawn before (F30)."""
    with (
        running(handler("draws.py:answer"), *flags) as server,
        clients.several(server.address, 8) as held,
    ):
        drawn = [json.loads(clients.command(client, "")) for client in held]
    pids, *numbers = map(set, zip(*drawn, strict=True))
    assert len(pids) == 8
    assert [len(one) for one in numbers] == [8, 8, 8]


@every_mode
def test_nobody_shares_a_wait(mode: Mode) -> None:
    """No process has an epoll instance of another one: it could undo what that waits for (F31)."""
    with running(ACTS, *mode.arguments) as server, clients.connect(server.address) as client:
        assert clients.command(client, "echo here") == "here"
        waits = [
            (process.pid, descriptor)
            for process in server.processes()
            for descriptor, what in descriptors(process.pid).items()
            if what == "anon_inode:[eventpoll]"
        ]
        shared = [pair for pair in combinations(waits, 2) if is_one_file(*pair)]
    assert len({pid for pid, _ in waits}) >= 3
    assert shared == []


def is_one_file(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Tell whether two descriptors, each of a process, are of one open file (kcmp(2))."""
    kcmp = {"x86_64": 312, "aarch64": 272}[platform.machine()]
    order = ctypes.CDLL(None).syscall(kcmp, one[0], other[0], 0, one[1], other[1])
    assert order >= 0, "kcmp failed"
    return bool(order == 0)


# -- how they boot


def test_a_replacement_that_hangs(tmp_path: Path) -> None:
    """It is given up at the boot timeout, with its stack; the other worker serves on (F34)."""
    (tmp_path / "app.py").write_text(
        "import os, threading\n"
        "from tests.handlers.acts import Stream\n"
        "def open_pool():\n"
        "    if os.path.exists('broken'):\n"
        "        threading.Event().wait()\n"
    )
    flags = ("-w", "2", "--boot-timeout", "1", "--worker-start", "app.py:open_pool")
    expect = "was killed"
    with running("app.py:Stream", "prefork", *flags, cwd=tmp_path, expect=expect) as server:
        (tmp_path / "broken").touch()
        os.kill(server.family()[0].pid, signal.SIGKILL)
        server.wait_for_line(r"worker \d+: was not ready after 1 s \(boot timeout\)")
        server.wait_for_line(r"app\.py.* in open_pool")
        assert clients.ask_line(server.address, "echo here") == "here"
        (tmp_path / "broken").unlink()
        server.wait_for_line("full strength again: 2/2")


@mostly_plain
def test_a_stop_beside_a_death(mode: Mode) -> None:
    """Nobody is started in the place of a worker that dies while the server stops (F33)."""
    with running(ACTS, *mode.arguments, expect="was killed") as server:
        for process in server.family():
            os.kill(process.pid, signal.SIGKILL)
        assert server.stop() == 0


def test_no_place_to_write() -> None:
    """Nothing needs a file: all is well where neither /tmp nor /dev/shm can be written (F53)."""
    requires("unshare", "mount")
    requires_root()
    under = ["unshare", "-m", "sh", "-c", READ_ONLY, "sh"]
    flags = ("-w", "2", "--connection-timeout", "1")
    with running(ACTS, "prefork", *flags, under=under, expect="was killed|timeout") as server:
        with clients.in_service(server.address, "burn 20") as stuck:
            assert clients.ends(stuck)
        server.wait_for_line(r"worker \d+ is ready")
        server.signal(signal.SIGHUP)
        server.wait_for_line("generation 1 has left")
        assert clients.ask_line(server.address, "echo here") == "here"


@pytest.mark.heavy
def test_one_port_again_and_again() -> None:
    """20 starts in a row at one port, where the server has closed each connection first (F95)."""
    address = "tcp://127.0.0.1:0"
    for _ in range(20):
        with running(f"{ROOT}/examples/daytime.py:daytime", "thread", address=address) as server:
            address = server.address
            with clients.connect(address) as client:
                assert clients.read_to_end(client).endswith(b"\r\n")


# -- whom they serve


@pytest.mark.parametrize("mode", [MODE["process"], MODE["process-spare"], MODE["prefork"]], ids=str)
def test_a_poisonous_client(mode: Mode) -> None:
    """Whoever kills each process that serves it, again and again, harms nobody else (F63)."""

    def act(number: int) -> set[str]:
        if number:
            return {clients.ask_line(server.address, "echo here") for _ in range(25)}
        for _ in range(20):
            with clients.connect(server.address) as client:
                client.sendall(b"kill 11\n")
                assert clients.ends(client)
        return {"here"}

    with running(ACTS, *mode.arguments, expect="was killed") as server:
        assert clients.at_once(9, act) == [{"here"}] * 9
