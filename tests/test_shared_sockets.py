"""What handlers and the machine do to the sockets that all processes share."""

import os
import signal
import socket
from pathlib import Path

import pytest

from tests.support import clients, processes
from tests.support.faults import frozen, injecting, lines_of
from tests.support.modes import ACTS, MODE, MODES, Mode, named
from tests.support.server import TCP, Server, handler, run_command, running
from tests.support.waiting import eventually, pause

every_mode = pytest.mark.parametrize("mode", MODES, ids=named(MODES))
# The children of a worker that leaves because of it are orphans for a moment.
every_act = pytest.mark.parametrize(
    ("act", "mode"),
    [
        pytest.param(act, mode, id=f"{act}-{mode.name}")
        for act in ("close", "shut")
        for mode in MODES
        if act == "close" or mode.lasting
    ],
)
STREAM, DATAGRAM = handler("meddler.py:Stream"), handler("meddler.py:Datagram")
DEAD = "by somebody else|exited with 75|Bad file descriptor|raised OSError"


def serves(address: str) -> bool:
    """Tell whether a client is answered within a second."""
    try:
        if address.startswith(("udp", "unixgram")):
            return clients.ask_datagram(address, "here", 1) == "here"
        return clients.ask_line(address, "here", 1) == "here"
    except OSError:
        return False


def family_cpu(server: Server) -> float:
    """Return the seconds of CPU that the server's processes have used."""
    return sum(processes.cpu_seconds(process.pid) for process in server.processes())


def assert_quietly_served(server: Server) -> None:
    """Fail unless clients are served again, and no process spins."""
    eventually(lambda: serves(server.address), 10)
    spent = family_cpu(server)
    pause(0.5)
    assert family_cpu(server) - spent < 0.3
    assert serves(server.address)


@every_act
def test_listener_that_a_handler_spoils(act: str, mode: Mode, tmp_path: Path) -> None:
    """Whatever a handler does to a Unix listener, clients are served again, and nobody spins."""
    with running(STREAM, *mode.arguments, address=f"unix://{tmp_path}/s", expect=DEAD) as server:
        clients.ask_line(server.address, act)
        assert_quietly_served(server)


@every_act
@pytest.mark.parametrize("transport", ["udp", "unixgram"])
def test_datagram_socket_that_a_handler_spoils(
    transport: str, act: str, mode: Mode, tmp_path: Path
) -> None:
    """The same with a socket for datagrams."""
    address = "udp://127.0.0.1:0" if transport == "udp" else f"unixgram://{tmp_path}/s"
    expect = f"{DEAD}|not connected"
    with running(DATAGRAM, *mode.arguments, address=address, expect=expect) as server:
        clients.ask_datagram(server.address, act)
        assert_quietly_served(server)


def test_queue_outlives_a_failed_fork() -> None:
    """One fork that fails costs one client; the others wait for the next try."""
    with running(ACTS, "process") as server:
        worker = int(clients.ask_line(server.address, "parent"))
        calls = ["clone", "clone3", "fork", "vfork"]
        with (
            injecting([worker], *(f"{call}:error=EAGAIN:when=1" for call in calls)),
            frozen([worker]),
            clients.several(server.address, 20) as waiting,
        ):
            for client in waiting:
                client.sendall(b"echo here\n")
            os.kill(worker, signal.SIGCONT)
            answers = [clients.read_line(client) for client in waiting]
        assert sorted(answers)[1:] == [b"here\n"] * 19


@pytest.mark.parametrize("error", ["ENOMEM", "ENOSPC"])
@pytest.mark.parametrize("name", ["iterative", "thread", "process", "prefork"])
def test_no_room_to_watch(name: str, error: str) -> None:
    """A worker that cannot watch its listener for a moment is not deaf for ever."""
    with running(ACTS, name, "-w", "1") as server:
        worker = int(clients.ask_line(server.address, MODE[name].worker))
        with injecting([worker], f"epoll_ctl:error={error}:when=1..6"):
            assert [clients.ask_line(server.address, "echo here") for _ in range(8)] == ["here"] * 8
        assert clients.ask_line(server.address, MODE[name].worker) == str(worker)


def test_queue_beside_an_inherited_socket() -> None:
    """At a stop the queue of our own listener is served, though another one is not ours."""
    with socket.create_server(("127.0.0.1", 0)) as given:
        descriptor = given.fileno()
        with running(
            ACTS,
            "iterative",
            address=[TCP, f"fd://{descriptor}"],
            pass_fds=[descriptor],
        ) as server:
            worker = int(clients.ask_line(server.address, "pid"))
            with clients.several(server.address, 6) as waiting, frozen([worker]):
                for client in waiting:
                    client.sendall(b"echo here\n")
                    client.shutdown(socket.SHUT_WR)
                server.signal(signal.SIGTERM)
                server.wait_for_line("stopping")
                os.kill(worker, signal.SIGCONT)
                assert [clients.read_line(client) for client in waiting] == [b"here\n"] * 6


def test_inherited_socket_stays_as_it_was() -> None:
    """Who gave a listening socket gets it back blocking, as it was."""
    with socket.create_server(("127.0.0.1", 0)) as given:
        with running(ACTS, address=f"fd://{given.fileno()}", pass_fds=[given.fileno()]) as server:
            assert clients.ask_line(server.address, "echo here") == "here"
        assert os.get_blocking(given.fileno())


@every_mode
def test_error_of_an_adopted_handler_is_the_handlers(mode: Mode) -> None:
    """That the client has half-closed does not make a handler's own OSError the client's."""
    target = handler("meddler.py:failing")
    with running(target, *mode.arguments, expect="nowhere|handler of") as server:
        assert clients.ask(server.address, b"hello") == b""
        server.wait_for_line("No such file or directory: '/nowhere")


@pytest.mark.parametrize("name", ["iterative", "thread", "prefork"])
def test_error_in_a_thread_of_the_object(name: str) -> None:
    """What a handler raises in a thread that the object made is logged too."""
    target = handler("meddler.py:pooled")
    with running(target, name, expect="nowhere|handler of") as server:
        assert clients.ask(server.address, b"hello") == b""
        server.wait_for_line("No such file or directory: '/nowhere")
        assert len(lines_of(server.stderr_so_far(), "handler of .* raised")) == 1


def test_thread_that_never_ends_does_not_hold_up_the_stop() -> None:
    """The command leaves a thread behind that the target's module has started."""
    target = handler("meddler.py:with_a_thread")
    with running(target, "iterative", expect="use of fork") as server:
        assert server.stop() == 0


def test_constructor_that_asks_its_socket(tmp_path: Path) -> None:
    """A refused address is named also where the constructor goes on with its socket."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        where = taken.getsockname()
        module = tmp_path / "wrapped.py"
        module.write_text(
            f"from tests.handlers.meddler import Wrapped\nserver = Wrapped({where})\n"
        )
        ended = run_command("run", f"{module}:server")
        assert ended.returncode == 1
        assert (
            f"cannot listen on tcp://127.0.0.1:{where[1]}: Address already in use" in ended.stderr
        )
        with running(f"{module}:server", "thread", expect="nowhere|handler of") as server:
            assert clients.ask(server.address, b"hello") == b""
