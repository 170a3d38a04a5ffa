"""Faults of the supervisor's own: it outlives one, and does not leave anybody behind after many."""

import os
import signal

from tests.support import clients, processes
from tests.support.faults import Fifo, injecting
from tests.support.modes import ACTS
from tests.support.requirements import requires
from tests.support.server import TCP, run_command, running

FAULT = "a fault in the supervisor"
EXPECT = f"{FAULT}|Errno 5|leader"


def test_a_wait_that_fails() -> None:
    """It is logged with its place, and the next signal is heard as ever (F85)."""
    with running(ACTS, expect=EXPECT) as server:
        with injecting([server.pid], "epoll_wait:error=EIO:when=1"):
            server.signal(signal.SIGTTIN)
            server.wait_for_line(FAULT)
        assert "in wait_until" in server.stderr_so_far()
        server.signal(signal.SIGHUP)
        server.wait_for_line("generation 1 has left")
        assert clients.ask_line(server.address, "echo here") == "here"


def test_a_death_that_cannot_be_looked_at() -> None:
    """It is looked at again: the leader that was killed is replaced (F85)."""
    with running(ACTS, expect=EXPECT) as server:
        with injecting([server.pid], "wait4:error=EIO:when=1"):
            os.kill(server.leader, signal.SIGKILL)
            server.wait_for_line("generation 2 is ready")
        assert FAULT in server.stderr_so_far()
        assert clients.ask_line(server.address, "echo here") == "here"


def test_a_leader_that_cannot_be_heard() -> None:
    """If there is no room to listen to it, it is not started, and the reload has failed."""
    with running(ACTS, expect="reload failed") as server:
        with injecting([server.pid], "epoll_ctl:error=ENOSPC"):
            server.signal(signal.SIGHUP)
            server.wait_for_line("reload failed: cannot fork a leader: .*; generation 1 goes on")
        server.signal(signal.SIGHUP)
        server.wait_for_line("generation 1 has left")
        assert clients.ask_line(server.address, "echo here") == "here"


def test_faults_without_end(fifo: Fifo) -> None:
    """After ten within a second it gives up: status 70, and what is served is finished (F85)."""
    with running(ACTS, status=70, expect=EXPECT) as server:
        server.expect_orphans()
        with (
            clients.in_service(server.address, f"wait-for {fifo.path}") as busy,
            injecting([server.pid], "epoll_wait:error=EIO"),
        ):
            server.signal(signal.SIGTTIN)
            assert server.wait() == 70
            fifo.release()
            assert clients.read_line(busy) == b"released\n"
        assert all(processes.wait_until_gone(pid) for pid in server.orphans)
    assert server.stderr_so_far().rstrip().splitlines()[-1] == (
        "forkserve: error: a fault in the supervisor: OSError: [Errno 5] Input/output error"
    )


def test_a_fault_before_anything_serves() -> None:
    """There is nothing to go on with: status 70, and why."""
    requires("strace")
    failing = ["strace", "-o", "/dev/null", "-e", "inject=epoll_wait:error=EIO:when=1"]
    ended = run_command("run", ACTS, "-b", TCP, under=failing)
    assert ended.returncode == 70
    assert f"forkserve: error: {FAULT}: OSError" in ended.stderr
