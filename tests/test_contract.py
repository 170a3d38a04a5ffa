"""Every kind of handler means the same in every mode, over TCP and over Unix sockets."""

import json
import socket
import stat
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from tests.support import clients, processes
from tests.support.modes import ACTS, HTTP, KINDS, MODES, MOSTLY_PLAIN, Kind, Mode, cross, named
from tests.support.server import TCP, Server, handler, running
from tests.support.waiting import becomes, settled

MEBIBYTE = 1 << 20
PAYLOAD = bytes(range(251)) * 4200
PAYLOAD = PAYLOAD[: MEBIBYTE + 1]

every_mode = pytest.mark.parametrize("mode", MODES, ids=named(MODES))
every_kind = pytest.mark.parametrize("kind", [*KINDS, HTTP], ids=named([*KINDS, HTTP]))
every_combination = pytest.mark.parametrize(("kind", "mode", "transport"), cross([*KINDS, HTTP]))
every_own_combination = pytest.mark.parametrize(("kind", "mode"), cross(KINDS, ("tcp",)))
every_transport = pytest.mark.parametrize("transport", ["tcp", "unix"])

Serve = Callable[..., AbstractContextManager[Server]]


@pytest.fixture
def serve(tmp_path: Path) -> Serve:
    """Return a way to serve a target in a mode, over TCP or over a Unix socket of this test."""
    (tmp_path / "payload").write_bytes(PAYLOAD)
    (tmp_path / "small").write_bytes(b"small")

    def serve(
        target: str, mode: Mode, transport: str = "tcp", **options: Any
    ) -> AbstractContextManager[Server]:
        address = TCP if transport == "tcp" else f"unix://{tmp_path}/s"
        return running(target, *mode.arguments, address=address, cwd=tmp_path, **options)

    return serve


def small_exchange(kind: Kind, server: Server) -> None:
    """Be one client that is served."""
    if kind is HTTP:
        assert clients.fetch(server.address, "/small") == b"small"
    else:
        assert clients.ask(server.address, b"small\n") == b"small\n"


@pytest.mark.smoke
@every_transport
@every_mode
@every_kind
def test_every_byte_comes_back(kind: Kind, mode: Mode, transport: str, serve: Serve) -> None:
    """A MiB goes in and out byte by byte as it was, to a half-closed client too (F99)."""
    with serve(kind.echo, mode, transport) as server:
        if kind is HTTP:
            assert clients.fetch(server.address, "/payload") == PAYLOAD
            assert clients.ask(server.address, b"GET /payload\r\n\r\n").endswith(PAYLOAD)
        else:
            assert clients.ask(server.address, PAYLOAD) == PAYLOAD
            with clients.connect(server.address) as client:
                client.sendall(b"one\n")
                assert clients.read_exactly(client, 4) == b"one\n"
                client.sendall(b"two\n")
                assert clients.read_exactly(client, 4) == b"two\n"


@every_own_combination
def test_half_closed_client_gets_an_answer_made_later(kind: Kind, mode: Mode, serve: Serve) -> None:
    """The end of a client's data is not the end of the client (F99)."""
    with serve(kind.acts, mode) as server, clients.connect(server.address) as client:
        client.sendall(f"burn 0.05\nbig {MEBIBYTE}\n".encode())
        client.shutdown(socket.SHUT_WR)
        assert clients.read_to_end(client) == b"burnt\n" + b"x" * MEBIBYTE


@every_combination
def test_twenty_clients_at_once(kind: Kind, mode: Mode, transport: str, serve: Serve) -> None:
    """Twenty clients that come together are all served, however few are served at a time."""
    with serve(kind.echo, mode, transport) as server:
        if kind is HTTP:
            bodies = clients.at_once(20, lambda _: clients.fetch(server.address, "/small"))
            assert bodies == [b"small"] * 20
        else:
            payloads = [b"%d\n" % number * 1000 for number in range(20)]
            answers = clients.at_once(20, lambda n: clients.ask(server.address, payloads[n], 20))
            assert answers == payloads


@every_own_combination
def test_connections_held_together(kind: Kind, mode: Mode, serve: Serve) -> None:
    """As many connections as the mode has lanes are served side by side."""
    with serve(kind.acts, mode) as server:
        held = [clients.connect(server.address) for _ in range(mode.lanes)]
        assert [clients.command(client, "echo here") for client in held] == ["here"] * mode.lanes
        assert [clients.command(client, "echo still") for client in held] == ["still"] * mode.lanes
        for client in held:
            client.close()


@every_combination
def test_reset_is_nobody_elses_business(
    kind: Kind, mode: Mode, transport: str, serve: Serve
) -> None:
    """A reset at twenty points of a long answer costs its own connection only (F98)."""
    request = "GET /payload\r\n\r\n" if kind is HTTP else f"big {MEBIBYTE}\n"
    with serve(HTTP.echo if kind is HTTP else kind.acts, mode, transport) as server:
        workers = [process.pid for process in server.family()]
        for point in range(20):
            client = clients.connect(server.address)
            client.sendall(request.encode())
            clients.read_exactly(client, point * MEBIBYTE // 20)
            clients.reset(client)
        if kind is HTTP:
            assert clients.fetch(server.address, "/payload") == PAYLOAD
        else:
            assert clients.ask_line(server.address, "echo fine") == "fine"
        if mode.lasting:
            assert [process.pid for process in server.family()] == workers


RAISED = "handler of .* raised |raised on purpose|maximum recursion"

FAULTS = [
    "ValueError",
    "SystemExit",
    "KeyboardInterrupt",
    "GeneratorExit",
    "CancelledError",
    "Unheard",
    "RecursionError",
    "OSError",
    "BlockingIOError",
    "ConnectionError",
    "TimeoutError",
    "StopIteration",
]


@every_own_combination
def test_what_a_handler_raises_ends_its_connection_only(
    kind: Kind, mode: Mode, serve: Serve
) -> None:
    """Whatever a handler raises ends this connection and nothing else (F43-F45)."""
    with serve(kind.acts, mode, expect=RAISED) as server:
        workers = [process.pid for process in server.family()]
        for fault in FAULTS:
            with clients.connect(server.address) as client:
                client.sendall(f"raise {fault}\n".encode())
                assert clients.ends(client), fault
            assert clients.ask_line(server.address, "echo fine") == "fine", fault
        with clients.connect(server.address) as client:
            client.sendall(b"sys.exit 3\n")
            assert clients.ends(client)
        assert clients.ask_line(server.address, "echo fine") == "fine"
        if mode.lasting:
            assert [process.pid for process in server.family()] == workers
        assert "raised on purpose" in server.stderr_so_far()


@every_own_combination
def test_memory_error_costs_one_connection(kind: Kind, mode: Mode, serve: Serve) -> None:
    """A handler that is out of memory loses its connection; the worker may then retire (F45)."""
    with serve(kind.acts, mode, expect=f"{RAISED}|worker") as server:
        for _ in range(3):
            with clients.connect(server.address) as client:
                client.sendall(b"raise MemoryError\n")
                assert clients.ends(client)
            assert clients.ask_line(server.address, "echo fine") == "fine"


@pytest.mark.parametrize("name", ["Init", "Setup", "Finish", "OldInit", "OldSetup", "OldFinish"])
@pytest.mark.parametrize("mode", MOSTLY_PLAIN)
def test_handler_that_fails_around_its_work(
    name: str, mode: Mode, serve: Serve, tmp_path: Path
) -> None:
    """Six failures in a row to make, set up or finish a handler end six connections (F46)."""
    flag = tmp_path / "broken"
    flag.touch()
    target = handler(f"broken.py:{name}")
    env = {"BROKEN_WHILE": str(flag)}
    with serve(target, mode, expect=RAISED, env=env) as server:
        for _ in range(6):
            with clients.connect(server.address) as client:
                client.shutdown(socket.SHUT_WR)
                assert clients.ends(client)
        flag.unlink()
        assert clients.ask(server.address, b"mended\n") == b"mended\n"


@every_combination
def test_nothing_accumulates(kind: Kind, mode: Mode, transport: str, serve: Serve) -> None:
    """After 60 more connections the processes and their descriptors are what they were."""
    with serve(kind.echo, mode, transport) as server:
        for _ in range(9):
            small_exchange(kind, server)
        before = settled(lambda: open_descriptors(server, mode))
        for _ in range(60):
            small_exchange(kind, server)
        becomes(before, lambda: open_descriptors(server, mode))
        becomes(True, lambda: len(server.processes()) <= len(before) + mode.waiting)
        becomes([], lambda: [one for one in server.processes() if one.state == "Z"])


def open_descriptors(server: Server, mode: Mode) -> dict[int, int]:
    """Return how many descriptors each lasting process has: all but a connection's own process."""
    family = server.processes() if mode.lasting else server.processes()[:3]
    return {process.pid: len(processes.descriptors(process.pid)) for process in family}


@every_own_combination
def test_handler_sees_its_tcp_connection(kind: Kind, mode: Mode, serve: Serve) -> None:
    """A handler finds its client's address, its server's, and a socket with sound options (F93)."""
    with serve(kind.acts, mode) as server, clients.connect(server.address) as client:
        seen = json.loads(clients.command(client, "describe"))
        here, there = list(client.getsockname()), list(client.getpeername())
    assert seen["peername"] == here
    assert seen["sockname"] == there
    assert seen["blocking"]
    assert seen["nodelay"]
    assert seen["keepalive"]
    assert seen["linger"] == 0
    if kind.name in {"stream", "function"}:
        assert seen["peer"] == here
        assert seen["local"] == there
    if kind.name != "function":
        assert seen["client_address"] == here
        assert seen["server"]["server_address"] == there
    if kind.name.endswith("request"):
        assert seen["server"]["server_port"] == there[1]
        assert isinstance(seen["server"]["server_name"], str)
        assert seen["server_socket"]
        assert seen["shutdown"]


@every_own_combination
def test_handler_sees_the_configured_path(
    kind: Kind, mode: Mode, serve: Serve, tmp_path: Path
) -> None:
    """Over a Unix socket a handler sees the path as configured, and a peer without a name."""
    path = f"{tmp_path}/s"
    with serve(kind.acts, mode, "unix") as server:
        assert server.addresses == [f"unix://{path}"]
        assert stat.S_IMODE(Path(path).stat().st_mode) == 0o660
        seen = clients.ask_json(server.address, "describe")
    assert not Path(path).exists()
    assert seen["peername"] == ""
    assert seen["linger"] == 0
    if kind.name in {"stream", "function"}:
        assert seen["local"] == path
    if kind.name != "function":
        assert seen["client_address"] == ""
        assert seen["server"]["server_address"] == path


@every_transport
@every_mode
def test_http_handler_sees_what_http_server_gives(mode: Mode, transport: str, serve: Serve) -> None:
    """A stock HTTP handler finds name and port, and over a Unix socket a peer ("", 0)."""
    with serve(handler("web.py:Describe"), mode, transport) as server:
        seen = json.loads(clients.fetch(server.address, "/"))
    assert isinstance(seen["server_name"], str)
    if transport == "tcp":
        assert seen["client_address"][0] == seen["address_string"] == "127.0.0.1"
        assert seen["server_port"] == clients.port_of(server.address)
        assert seen["server_address"] == ["127.0.0.1", seen["server_port"]]
    else:
        assert seen["client_address"] == ["", 0]
        assert seen["server_address"] == clients.path_of(server.address)


@every_mode
def test_line_echo_through_the_file_objects(mode: Mode, serve: Serve) -> None:
    """What a stream handler writes to `wfile` reaches a client that waits before it sends more."""
    with serve(handler("echo.py:Files"), mode) as server, clients.connect(server.address) as client:
        for number in range(3):
            line = b"line %d\n" % number
            client.sendall(line)
            assert clients.read_line(client) == line
        client.sendall(b"without an end")
        client.shutdown(socket.SHUT_WR)
        assert clients.read_to_end(client) == b"without an end"


@every_mode
def test_one_wait_for_all_addresses(mode: Mode, tmp_path: Path) -> None:
    """One server serves TCP and Unix addresses at the same time."""
    addresses = [TCP, f"unix://{tmp_path}/a", TCP, f"unix://{tmp_path}/b"]
    with running(ACTS, *mode.arguments, address=addresses) as server:
        assert [one.partition(":")[0] for one in server.addresses] == ["tcp", "unix"] * 2
        for address in server.addresses * 3:
            assert clients.ask_line(address, "echo here") == "here"
