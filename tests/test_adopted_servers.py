"""Server objects of socketserver are served in every mode, and every override is honoured."""

import contextlib
import json
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.handlers.servers import TROUBLEMAKER
from tests.support import clients, processes
from tests.support.faults import frozen, lines_of, out_of_descriptors
from tests.support.modes import MODE, MODES, MOSTLY_PLAIN, PLAIN_MODES, Mode, named
from tests.support.requirements import requires, requires_ipv6
from tests.support.server import ROOT, TCP, Server, environment, handler, run_command, running
from tests.support.waiting import Stopwatch, eventually, pause, settled

every_mode = pytest.mark.parametrize("mode", MODES, ids=named(MODES))
every_plain_mode = pytest.mark.parametrize("mode", PLAIN_MODES, ids=named(PLAIN_MODES))
mostly_plain = pytest.mark.parametrize("mode", MOSTLY_PLAIN)

LINES = ["tcp", "threading_tcp", "forking_tcp", "unbound", "unix", "unbound_unix", "threading_unix"]
HTTP = ["http_server", "threading_http", "wsgi"]
AT_HOME: list[str] = []
ELSEWHERE = {"home": AT_HOME, "tcp": [TCP], "unix": ["unix://{folder}/given.sock"], "dual": [":0"]}


def spread(kinds: list[str]) -> list[Any]:
    """Return every kind in every mode at every place, heavy but for a few that differ most."""
    return [
        pytest.param(
            kind,
            mode,
            place,
            id=f"{kind}-{mode.name}-{place}",
            marks=()
            if (kind == kinds[0] and place in {"home", "unix"})
            or (mode.name, place) in {("thread", "home"), ("prefork", "tcp")}
            else pytest.mark.heavy,
        )
        for kind in kinds
        for mode in MODES
        for place in ELSEWHERE
    ]


@contextlib.contextmanager
def serving(
    target: str,
    mode: Mode,
    folder: Path,
    addresses: Sequence[str] = AT_HOME,
    env: dict[str, str] | None = None,
    flags: Sequence[str] = (),
    **options: Any,
) -> Iterator[Server]:
    """Serve a target of ours in a folder, at its own address or at the ones given."""
    file = target if ":" in target else f"servers.py:{target}"
    binds = [address.format(folder=folder) for address in addresses]
    given = (handler(file), mode.mode, *mode.flags, *flags)
    with running(*given, address=binds, cwd=folder, env=env, **options) as server:
        server.wait_until_ready(len(binds) or 1)
        yield server


def ask_from(host: str, address: str, line: str) -> bytes:
    """Return what a client at another address of this machine gets for a line."""
    place = ("127.0.0.1", clients.port_of(address))
    client = socket.create_connection(place, 10, source_address=(host, 0))
    with client, contextlib.suppress(ConnectionError):
        client.sendall(f"{line}\n".encode())
        with contextlib.suppress(OSError):  # not connected any more
            client.shutdown(socket.SHUT_WR)
        return clients.read_to_end(client)
    return b""


def workers_of(server: Server) -> list[int]:
    """Return the processes that the supervisor started itself."""
    return [one.pid for one in server.processes() if one.parent == server.leader]


# -- every kind of object


@pytest.mark.parametrize(("kind", "mode", "place"), spread(LINES))
def test_every_kind_is_served(kind: str, mode: Mode, place: str, tmp_path: Path) -> None:
    """It is served where it is at home or where `-b` says, and its handlers see that address."""
    with serving(kind, mode, tmp_path, ELSEWHERE[place]) as server:
        seen = clients.ask_json(server.address, "describe")["server"]
        if server.address.startswith("unix://"):
            assert seen["server_address"] == clients.path_of(server.address)
        else:
            assert seen["server_address"][1] == clients.port_of(server.address)
        payloads = [f"echo {number}" for number in range(8)]
        answers = clients.at_once(8, lambda n: clients.ask_line(server.address, payloads[n]))
        assert answers == [f"{number}" for number in range(8)]
    if place != "home":
        (tmp_path / "home.sock").unlink(missing_ok=True)
    assert processes.socket_files(tmp_path) == []


def take_away(folder: Path) -> list[str]:
    """Return the names of the sockets that were left in a folder, and remove them."""
    left = processes.socket_files(folder)
    for path in left:
        path.unlink()
    return [path.name for path in left]


def test_nothing_is_left_where_it_was(tmp_path: Path) -> None:
    """An object that moves away from the path that it was made with leaves nothing there."""
    with serving("unix", MODE["thread"], tmp_path, [TCP]) as server:
        assert clients.ask_line(server.address, "echo moved") == "moved"
    assert take_away(tmp_path) == []


@pytest.mark.parametrize(("kind", "mode", "place"), spread(HTTP))
def test_every_kind_of_http_is_served(kind: str, mode: Mode, place: str, tmp_path: Path) -> None:
    """HTTP and WSGI servers have the name and port of the address that they serve."""
    with serving(kind, mode, tmp_path, ELSEWHERE[place]) as server:
        seen = json.loads(clients.fetch(server.address, "/"))
        port = 0 if server.address.startswith("unix") else clients.port_of(server.address)
        assert int(seen["SERVER_PORT" if kind == "wsgi" else "server_port"]) == port
        assert seen["SERVER_NAME" if kind == "wsgi" else "server_name"]


@mostly_plain
def test_an_object_of_ipv6(mode: Mode, tmp_path: Path) -> None:
    """An object of another address family is served there, and moves to any other."""
    requires_ipv6()
    with serving("ipv6", mode, tmp_path) as server:
        assert server.address.startswith("tcp://[::1]:")
        assert clients.ask_line(server.address, "echo six") == "six"
    with serving("ipv6", mode, tmp_path, [TCP]) as server:
        assert clients.ask_json(server.address, "describe")["client_address"][0] == "127.0.0.1"


@pytest.mark.parametrize("name", ["server", "unbound"])
@mostly_plain
def test_an_object_of_a_module(mode: Mode, name: str, tmp_path: Path) -> None:
    """`self.server` is the very object that the module made, with its attributes and class."""
    with serving(f"server_object.py:{name}", mode, tmp_path) as server:
        seen = json.loads(clients.ask(server.address, b""))
        assert seen["address"] == ["127.0.0.1", clients.port_of(server.address)]
        assert seen["is_the_object"] is (name == "server")
        assert (seen["motto"], seen["class"]) == ("as written", "Own")


@mostly_plain
def test_two_addresses(mode: Mode, tmp_path: Path) -> None:
    """Several `-b` are all served, and each handler's server says which it is."""
    path = f"{tmp_path}/two.sock"
    with serving("server_object.py:server", mode, tmp_path, [TCP, f"unix://{path}"]) as server:
        first, second = (json.loads(clients.ask(each, b"")) for each in server.addresses)
        assert first["address"] == ["127.0.0.1", clients.port_of(server.address)]
        assert second["address"] == path
        assert [first["motto"], second["motto"]] == ["as written"] * 2
    assert processes.socket_files(tmp_path) == []


@mostly_plain
def test_an_ipv4_client_of_both_protocols(mode: Mode, tmp_path: Path) -> None:
    """On a dual-stack socket a client of IPv4 is shown as one."""
    with serving("tcp", mode, tmp_path, [":0"]) as server:
        address = f"tcp://127.0.0.1:{clients.port_of(server.address)}"
        assert clients.ask_json(address, "describe")["client_address"][0] == "127.0.0.1"


# -- an address that somebody has


@pytest.fixture
def taken() -> Iterator[dict[str, str]]:
    """Return the environment with a port that somebody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield {"PORT": str(other.getsockname()[1])}


@pytest.mark.parametrize("kind", ["at_a_port", "at_a_port_with_http"])
@every_plain_mode
def test_a_taken_address_that_nobody_wants(
    kind: str, mode: Mode, tmp_path: Path, taken: dict[str, str]
) -> None:
    """What the constructor binds does not matter when `-b` says something else."""
    with serving(kind, mode, tmp_path, [TCP], env=taken) as server:
        if kind == "at_a_port":
            assert clients.ask_line(server.address, "echo here") == "here"
        else:
            seen = json.loads(clients.fetch(server.address, "/"))
            assert seen["server_port"] == clients.port_of(server.address)


@pytest.mark.parametrize("kind", ["at_a_port", "at_a_port_with_http"])
def test_a_taken_address(kind: str, tmp_path: Path, taken: dict[str, str]) -> None:
    """Without `-b` it is one line and status 1, as for every other server."""
    target = handler(f"servers.py:{kind}")
    ended = run_command("run", target, "--bind-retries", "0", cwd=tmp_path, env=taken)
    assert ended.returncode == 1, ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert "in use" in ended.stderr
    assert f"127.0.0.1:{taken['PORT']}" in ended.stderr


# -- overrides

# Where another process accepts than the one that serves; a spare one does both.
DISPATCHING = [MODE["process"], MODE["process-reused"]]
NOTING = ["noting", "noting_threading", "noting_forking", "noting_unix"]


def read_journal(path: Path) -> list[dict[str, Any]]:
    """Return what the server noted."""
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("kind", NOTING)
@mostly_plain
def test_every_override_is_called_in_its_place(mode: Mode, kind: str, tmp_path: Path) -> None:
    """get_request runs in the accept loop, all others where the handler runs, each once."""
    journal = tmp_path / "journal"
    with (
        serving(kind, mode, tmp_path, env={"JOURNAL": str(journal)}) as server,
        clients.connect(server.address) as client,
    ):
        who = json.loads(clients.command(client, "who"))
        acceptor = int(clients.command(client, "parent" if mode in DISPATCHING else "pid"))
        client.shutdown(socket.SHUT_WR)
        assert clients.read_to_end(client) == b""
    notes = read_journal(journal)
    assert [note["event"] for note in notes] == [
        "server_bind",
        "server_activate",
        "get_request",
        "verify_request",
        "process_request",
        *(["process_request_thread"] if kind == "noting_threading" else []),
        "finish_request",
        "shutdown_request",
        "close_request",
    ]
    assert notes[2]["pid"] == acceptor
    handling = [{key: note[key] for key in ("pid", "thread")} for note in notes[3:]]
    assert handling == [who] * len(handling)


@pytest.mark.parametrize("kind", NOTING)
@mostly_plain
def test_overrides_at_another_address(mode: Mode, kind: str, tmp_path: Path) -> None:
    """server_bind and server_activate run again for `-b`, and know that address."""
    journal = tmp_path / "journal"
    with serving(kind, mode, tmp_path, [TCP], env={"JOURNAL": str(journal)}) as server:
        assert clients.ask_line(server.address, "echo here") == "here"
        port = clients.port_of(server.address)
    (tmp_path / "home.sock").unlink(missing_ok=True)
    binds = [note for note in read_journal(journal) if note["event"] == "server_bind"]
    assert binds[-1]["address"] == ["127.0.0.1", port]
    events = [note["event"] for note in read_journal(journal)]
    assert events.count("server_bind") == events.count("server_activate")


@pytest.mark.parametrize("kind", ["noting", "noting_threading", "noting_forking"])
@mostly_plain
def test_handle_error_is_called(mode: Mode, kind: str, tmp_path: Path) -> None:
    """It gets what the handler raised, where the handler ran, and then nobody else says it."""
    journal = tmp_path / "journal"
    with serving(kind, mode, tmp_path, env={"JOURNAL": str(journal)}) as server:
        with clients.connect(server.address) as client:
            who = json.loads(clients.command(client, "who"))
            client.sendall(b"raise ValueError\n")
            assert clients.ends(client)
        assert clients.ask_line(server.address, "echo fine") == "fine"
    (note,) = (note for note in read_journal(journal) if note["event"] == "handle_error")
    assert note == {"event": "handle_error", **who, "error": "ValueError"}
    assert "on purpose" not in server.stderr_so_far()


@pytest.mark.parametrize("kind", ["tcp", "threading_tcp", "forking_tcp"])
@mostly_plain
def test_an_error_without_handle_error(mode: Mode, kind: str, tmp_path: Path) -> None:
    """What a handler raises is said once, with a traceback, as for our own handlers."""
    with serving(kind, mode, tmp_path, expect="on purpose|raised ValueError") as server:
        with clients.connect(server.address) as client:
            client.sendall(b"raise ValueError\n")
            assert clients.ends(client)
        assert clients.ask_line(server.address, "echo fine") == "fine"
    assert len(lines_of(server.stderr_so_far(), "handler of .* raised ValueError")) == 1
    assert len(lines_of(server.stderr_so_far(), "ValueError: raised on purpose")) == 1


@mostly_plain
def test_verify_request_says_no(mode: Mode, tmp_path: Path) -> None:
    """Then the connection ends, and nothing else."""
    with serving("picky", mode, tmp_path) as server:
        for _ in range(5):
            assert ask_from(TROUBLEMAKER, server.address, "echo in") == b""
            assert ask_from("127.0.0.1", server.address, "echo in") == b"in\n"
    assert lines_of(server.stderr_so_far(), "ERROR|WARNING") == []


@mostly_plain
def test_more_arguments_for_the_handler(mode: Mode, tmp_path: Path) -> None:
    """finish_request makes the handler as it likes."""
    with serving("greeting", mode, tmp_path) as server:
        assert clients.ask(server.address, b"") == b"hello"


@mostly_plain
def test_process_request_without_the_library(mode: Mode, tmp_path: Path) -> None:
    """process_request may do the whole work itself."""
    with serving("whole", mode, tmp_path) as server:
        assert clients.ask(server.address, b"echo here\n") == b"here\nand goodbye\n"


@pytest.mark.parametrize(
    "name", ["iterative", "thread", "prefork", pytest.param("prefork-threads", marks=())]
)
def test_a_pool_of_the_objects_own(name: str, tmp_path: Path) -> None:
    """A process_request that hands the request to a pool of threads is served from there."""
    with serving("pooled", MODE[name], tmp_path) as server:
        answers = clients.at_once(
            20, lambda number: clients.ask_line(server.address, f"echo {number}")
        )
        assert answers == [f"{number}" for number in range(20)]
        with clients.connect(server.address) as client:
            who = json.loads(clients.command(client, "who"))
            assert who["pid"] != who["thread"]


def census(kind: str, mode: Mode, folder: Path) -> list[int]:
    """Return how many threads each process has while one client is served."""
    with serving(kind, mode, folder) as server:
        count = partial(_count_threads, server)
        settled(count)  # who comes before all spares are there is replaced by one more
        with clients.connect(server.address) as client:
            assert clients.command(client, "echo here") == "here"
            return settled(count)


def _count_threads(server: Server) -> list[int]:
    return sorted(len(processes.threads(one.pid)) for one in server.processes())


@pytest.mark.parametrize("kind", ["threading_tcp", "forking_tcp", "noting_threading"])
@mostly_plain
def test_mixins_bring_nothing(
    mode: Mode, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ThreadingMixIn costs no thread and ForkingMixIn no process: the mode replaces them."""
    monkeypatch.setenv("JOURNAL", str(tmp_path / "journal"))
    assert census(kind, mode, tmp_path) == census("tcp", mode, tmp_path)


# -- what the object is asked for


@pytest.mark.parametrize("kind", ["tcp", "threading_tcp", "forking_tcp", "unix"])
@mostly_plain
def test_shutdown_in_a_handler(mode: Mode, kind: str, tmp_path: Path) -> None:
    """`self.server.shutdown()` returns at once, and the server ends with status 0."""
    with serving(kind, mode, tmp_path) as server:
        assert clients.ask_line(server.address, "shutdown") == "None"
        assert server.wait() == 0


@mostly_plain
def test_shutdown_at_the_second_address(mode: Mode, tmp_path: Path) -> None:
    """It ends the whole server, from whichever address."""
    with serving("tcp", mode, tmp_path, [TCP, "unix://{folder}/two.sock"]) as server:
        assert clients.ask_line(server.addresses[1], "shutdown") == "None"
        assert server.wait() == 0


@mostly_plain
def test_stopping(mode: Mode, tmp_path: Path) -> None:
    """`self.server.stopping` tells a handler that the end is near."""
    with (
        serving("threading_tcp", mode, tmp_path) as server,
        clients.connect(server.address) as client,
    ):
        assert clients.command(client, "stopping") == "False"
        server.signal(signal.SIGTERM)
        eventually(lambda: clients.command(client, "stopping") == "True")


@mostly_plain
def test_a_stop_lets_a_handler_finish(mode: Mode, tmp_path: Path) -> None:
    """What runs when the server is told to end may finish, and its answer arrives."""
    with (
        serving("threading_tcp", mode, tmp_path) as server,
        clients.connect(server.address) as client,
    ):
        assert clients.command(client, "echo before") == "before"
        server.signal(signal.SIGTERM)
        eventually(lambda: clients.command(client, "stopping") == "True")
        assert clients.command(client, "echo after") == "after"
        client.shutdown(socket.SHUT_WR)
        assert clients.read_to_end(client) == b""
        assert server.wait() == 0


@mostly_plain
def test_the_drain_timeout(mode: Mode, tmp_path: Path) -> None:
    """A client that does nothing is interrupted at the drain timeout."""
    flags = ("--drain-timeout", "0.5")
    with (
        serving("threading_tcp", mode, tmp_path, flags=flags) as server,
        clients.connect(server.address) as client,
    ):
        assert clients.command(client, "echo before") == "before"
        server.signal(signal.SIGTERM)
        assert clients.ends(client)
        assert server.wait() == 0


# -- faults

# A request that the object itself drops without closing it is closed when nobody has it any more.
TROUBLE = "on purpose|raised \\w+$|ResourceWarning: (unclosed <socket.* raddr=|Enable)"
METHODS = [
    "get_request",
    "verify_request",
    "process_request",
    "finish_request",
    "shutdown_request",
    "close_request",
    "handle_error",
]


def _marks_of(kind: str, fault: str, mode: Mode) -> list[pytest.MarkDecorator]:
    """Return whether it is heavy."""
    is_plain = kind == "troubled" and fault == "ValueError" and mode in PLAIN_MODES
    return [] if is_plain else [pytest.mark.heavy]


TROUBLES = [
    pytest.param(
        f"{method}:{fault}",
        mode,
        kind,
        id=f"{kind}-{method}-{fault}-{mode.name}",
        marks=_marks_of(kind, fault, mode),
    )
    for kind in ("troubled", "troubled_threading")
    for method in METHODS
    for fault in ("ValueError", "Unheard", "SystemExit", "ConnectionResetError")
    for mode in MODES
    if (kind == "troubled" and mode.name in {"thread", "prefork"})
    or (fault == "ValueError" and (kind == "troubled" or mode in PLAIN_MODES))
]


@pytest.mark.parametrize(("trouble", "mode", "kind"), TROUBLES)
def test_a_fault_in_an_override(trouble: str, mode: Mode, kind: str, tmp_path: Path) -> None:
    """It ends the connection that met it, and no other; no process leaves."""
    line = "raise KeyError" if trouble.startswith("handle_error") else "echo in"
    env = {"TROUBLE": trouble}
    with serving(kind, mode, tmp_path, env=env, expect=TROUBLE) as server:
        before = workers_of(server)
        for _ in range(3):
            ask_from(TROUBLEMAKER, server.address, line)
            assert ask_from("127.0.0.1", server.address, "echo fine") == b"fine\n"
        assert workers_of(server) == before
        held = settled(lambda: sockets_of(server))
        ask_from(TROUBLEMAKER, server.address, line)
        eventually(lambda: len(sockets_of(server)) <= len(held))
    if "ConnectionResetError" not in trouble:
        assert lines_of(server.stderr_so_far(), "on purpose|SystemExit")


HEAVY_FAULTS = [
    pytest.param(name, marks=pytest.mark.heavy) for name in ("KeyboardInterrupt", "GeneratorExit")
]


def sockets_of(server: Server) -> set[str]:
    """Return the sockets that its processes hold."""
    held = (processes.descriptors(one.pid).values() for one in server.family())
    return {link for links in held for link in links if link.startswith("socket:")}


@pytest.mark.parametrize("fault", ["Unheard", "SystemExit", *HEAVY_FAULTS])
@pytest.mark.parametrize("kind", ["tcp", pytest.param("threading_tcp", marks=pytest.mark.heavy)])
@mostly_plain
def test_what_is_no_exception(mode: Mode, kind: str, fault: str, tmp_path: Path) -> None:
    """A BaseException in a handler ends its connection, and nothing else."""
    with serving(kind, mode, tmp_path, expect=f"on purpose|raised {fault}") as server:
        before = workers_of(server)
        with clients.connect(server.address) as client:
            client.sendall(f"raise {fault}\n".encode())
            assert clients.ends(client)
        assert clients.ask_line(server.address, "echo fine") == "fine"
        assert workers_of(server) == before
    assert len(lines_of(server.stderr_so_far(), f"handler of .* raised {fault}")) == 1


@every_plain_mode
def test_out_of_descriptors(mode: Mode, tmp_path: Path) -> None:
    """Out of descriptors, clients wait and the processor rests; then all are served."""
    with serving("tcp", mode, tmp_path) as server:
        assert clients.ask_line(server.address, "echo before") == "before"
        if not mode.lasting:
            eventually(lambda: len(server.family()) == 1)
        family = [process.pid for process in server.family()]
        with contextlib.ExitStack() as late:
            with out_of_descriptors(family):
                waiting = late.enter_context(clients.several(server.address, 3))
                for client in waiting:
                    client.sendall(b"echo after\n")
                    client.shutdown(socket.SHUT_WR)
                server.wait_for_line("EMFILE|Too many open files")
                spent = sum(map(processes.cpu_seconds, family))
                pause(1)
                assert sum(map(processes.cpu_seconds, family)) - spent <= 0.05
                assert server.is_running()
            watch = Stopwatch()
            assert [clients.read_to_end(client) for client in waiting] == [b"after\n"] * 3
            assert watch.seconds < 5
        assert server.family()[0].pid == family[0]
        assert len(lines_of(server.stderr_so_far(), "EMFILE|Too many open files")) <= 3


@pytest.mark.parametrize(
    "place",
    [
        "home",
        pytest.param("tcp", marks=pytest.mark.heavy),
        pytest.param("unix", marks=pytest.mark.heavy),
    ],
)
@every_plain_mode
def test_five_hundred_clients_at_once(mode: Mode, place: str, tmp_path: Path) -> None:
    """request_queue_size, five in the standard library, sends nobody away."""
    with serving("threading_tcp", mode, tmp_path, ELSEWHERE[place]) as server:
        assert clients.ask_line(server.address, "echo before") == "before"
        with contextlib.ExitStack() as stack:
            with frozen([process.pid for process in server.processes()]):
                waiting = stack.enter_context(clients.several(server.address, 500))
                for client in waiting:
                    client.sendall(b"echo here\n")
                    client.shutdown(socket.SHUT_WR)
            assert [clients.read_to_end(client) for client in waiting] == [b"here\n"] * 500


@every_mode
def test_answer_survives_unread_input(mode: Mode, tmp_path: Path) -> None:
    """An answer given before all was read arrives whole, although the rest is never read."""
    with serving("refusing", mode, tmp_path) as server:
        for _ in range(20):
            with clients.connect(server.address) as client:
                client.sendall(b"x" * 100_000)
                assert len(clients.read_to_end(client)) == len(b"refused: too large\n") + 4096


@pytest.mark.heavy
@every_mode
def test_no_answer_is_cut_off(mode: Mode, tmp_path: Path) -> None:
    """400 such answers arrive whole, eight at a time."""
    answer_size = len(b"refused: too large\n") + 4096

    with serving("refusing", mode, tmp_path) as server:

        def count_cut(_: int) -> int:
            return clients.count_cut(server.address, answer_size, bodies=50)

        assert clients.at_once(8, count_cut) == [0] * 8


@mostly_plain
def test_every_byte_comes_back(mode: Mode, tmp_path: Path) -> None:
    """Four clients at once each get back their own mebibyte."""
    payloads = [bytes([number]) * (1 << 20) for number in range(4)]
    with serving("echoing", mode, tmp_path) as server:
        answers = clients.at_once(4, lambda n: clients.ask(server.address, payloads[n]))
    assert answers == payloads


@mostly_plain
def test_nothing_accumulates(mode: Mode, tmp_path: Path) -> None:
    """After many connections the server holds no more descriptors than after a few."""

    def held() -> int:
        lasting = server.processes() if mode.lasting else server.processes()[:3]
        return sum(len(processes.descriptors(one.pid)) for one in lasting)

    with serving("threading_tcp", mode, tmp_path) as server:
        for _ in range(20):
            assert clients.ask_line(server.address, "echo here") == "here"
        before = settled(held)
        for _ in range(60):
            assert clients.ask_line(server.address, "echo here") == "here"
        eventually(lambda: held() <= before)


# -- TLS


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a key and a certificate for localhost."""
    requires("openssl")
    folder = tmp_path_factory.mktemp("tls")
    names = "subjectAltName=DNS:localhost,IP:127.0.0.1"
    subject = ("-subj", "/CN=localhost", "-addext", names)
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    files = ("-keyout", f"{folder}/key.pem", "-out", f"{folder}/certificate.pem")
    make = ["openssl", "req", "-x509", "-days", "2", *key, *subject, *files]
    subprocess.run(make, check=True, capture_output=True)
    return folder


@pytest.fixture
def tls_folder(certificate: Path, tmp_path: Path) -> Path:
    """Return a folder of this test, with the certificate and a mebibyte."""
    for name in ("key.pem", "certificate.pem"):
        shutil.copy(certificate / name, tmp_path)
    (tmp_path / "mebibyte").write_bytes(bytes(range(256)) * 4096)
    return tmp_path


def connect_tls(address: str, folder: Path) -> ssl.SSLSocket:
    """Open a connection with TLS that trusts the certificate in the folder."""
    context = ssl.create_default_context(cafile=str(folder / "certificate.pem"))
    client = clients.connect(address)
    try:
        return context.wrap_socket(client, server_hostname="localhost")
    except BaseException:
        client.close()
        raise


def fetch_tls(address: str, folder: Path) -> bytes:
    """Return the answer to a request for the mebibyte, from its first byte to its last."""
    with connect_tls(address, folder) as client:
        client.sendall(b"GET /mebibyte HTTP/1.0\r\n\r\n")
        return clients.read_to_end(client)


@pytest.mark.parametrize(
    "place",
    [
        "home",
        pytest.param("tcp", marks=pytest.mark.heavy),
        pytest.param("unix", marks=pytest.mark.heavy),
    ],
)
@every_mode
def test_a_socket_wrapped_by_hand(mode: Mode, place: str, tls_folder: Path) -> None:
    """An object whose socket was wrapped in TLS serves https to the last byte."""
    wanted = (tls_folder / "mebibyte").read_bytes()
    with serving("https", mode, tls_folder, ELSEWHERE[place]) as server:
        answers = clients.at_once(4, lambda _: fetch_tls(server.address, tls_folder))
    assert [answer.endswith(b"\r\n\r\n" + wanted) for answer in answers] == [True] * 4


@pytest.mark.parametrize("name", ["thread", "process", "process-spare", "prefork-threads"])
def test_silence_before_the_handshake(name: str, tls_folder: Path) -> None:
    """A client that connects and says nothing delays no other."""
    with (
        serving("https", MODE[name], tls_folder) as server,
        clients.several(server.address, 3),
    ):
        watch = Stopwatch()
        for _ in range(3):
            assert fetch_tls(server.address, tls_folder).startswith(b"HTTP/1.0 200")
        assert watch.seconds <= 5


@mostly_plain
def test_a_client_that_does_not_speak_tls(mode: Mode, tls_folder: Path) -> None:
    """Its connection ends, nobody says a word, and the next client is served."""
    with serving("https", mode, tls_folder) as server:
        with clients.connect(server.address) as client:
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            with contextlib.suppress(ConnectionError):
                clients.read_to_end(client)
        with clients.connect(server.address):
            pass
        assert fetch_tls(server.address, tls_folder).startswith(b"HTTP/1.0 200")
    assert lines_of(server.stderr_so_far(), "ERROR|Traceback|SSL") == []


@mostly_plain
def test_a_conversation_over_tls(mode: Mode, tls_folder: Path) -> None:
    """Each piece is answered before the next is sent."""
    with (
        serving("tls_echo", mode, tls_folder) as server,
        connect_tls(server.address, tls_folder) as client,
    ):
        for size in (1, 100, 70_000):
            client.sendall(b"x" * size)
            assert len(clients.read_exactly(client, size)) == size


# -- from a program of the user's own

PROGRAM = """
import socketserver, sys
import forkserve
from tests.handlers.acts import StreamRequest

server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), StreamRequest)
forkserve.Server(server, mode=sys.argv[1]).run()
"""


@every_plain_mode
def test_run_in_a_program(mode: Mode) -> None:
    """A program may serve its object itself, until TERM."""
    extra = {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-W", "always", "-c", PROGRAM, mode.mode],
        env=environment(extra),
        stderr=subprocess.PIPE,
        text=True,
    ) as program:
        assert program.stderr is not None
        try:
            address = program.stderr.readline().split()[-1]
            assert clients.ask_line(address, "echo here") == "here"
            program.terminate()
            assert program.wait(10) == 0
            assert program.stderr.read() == ""
        finally:
            program.kill()


# -- what is no server


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (f"{ROOT}/tests/handlers/servers.py:Noting", "serve an object of it"),
        ("socketserver:TCPServer", "serve an object of it"),
        (f"{ROOT}/tests/handlers/servers.py:without_socket", "BaseServer cannot be adopted"),
        (f"{ROOT}/tests/handlers/servers.py:fails", "fails.* raised ValueError: raised on purpose"),
        (f"{ROOT}/tests/handlers/servers.py:HOME", "is no handler"),
    ],
    ids=["class", "stock-class", "without-socket", "fails", "tuple"],
)
def test_what_is_no_server(target: str, words: str) -> None:
    """Its status is 4, and the last line says what would be one."""
    ended = run_command("run", target)
    assert ended.returncode == 4
    assert lines_of(ended.stderr.splitlines()[-1], words), ended.stderr


def test_a_stream_server_on_a_datagram_address() -> None:
    """An object for connections has no use for datagrams."""
    ended = run_command("run", handler("servers.py:tcp"), "-b", "udp://127.0.0.1:0")
    assert ended.returncode == 78, ended.stderr
    assert "is for connections, and udp://127.0.0.1:0 brings datagrams" in ended.stderr


def test_check() -> None:
    """`forkserve check` makes the object and says that it can be served."""
    ended = run_command("check", handler("servers.py:tcp"))
    assert ended.returncode == 0, ended.stderr
    assert "can be served" in ended.stderr


@pytest.mark.parametrize(
    "arguments", [("check",), ("run", "-b", "udp://127.0.0.1:0")], ids=["check", "misfit"]
)
def test_an_object_that_is_not_served_is_closed(arguments: tuple[str, ...], tmp_path: Path) -> None:
    """Where nothing is served one line is said, and no socket of the object is left."""
    command, *rest = arguments
    ended = run_command(command, handler("servers.py:unix"), *rest, cwd=tmp_path)
    assert (take_away(tmp_path), len(ended.stderr.splitlines())) == ([], 1), ended.stderr
