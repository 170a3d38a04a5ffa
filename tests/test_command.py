"""The command line: what it prints, how it fails, and with which status."""

import os
import re
import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import clients
from tests.support.modes import ACTS, ECHO
from tests.support.requirements import requires, requires_ipv6, requires_root
from tests.support.server import ROOT, TCP, handler, run_command, running, starting
from tests.support.waiting import becomes, eventually

REFUSED = handler("refused.py")


def assert_one_line(done: subprocess.CompletedProcess[str], status: int, *words: str) -> None:
    """Fail unless the command ended with this status and one line that has these words."""
    lines = done.stderr.splitlines()
    assert done.returncode == status, done.stderr
    assert len(lines) == 1, done.stderr
    assert re.match(r"forkserve(?: run| check)?: error: ", lines[0]), done.stderr
    for word in words:
        assert word in lines[0], done.stderr
    assert done.stdout == ""


@pytest.fixture
def taken() -> Iterator[int]:
    """Return a port of 127.0.0.1 that somebody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


MALFORMED = [
    pytest.param([], "", id="nothing"),
    pytest.param(["fly", ECHO], "fly", id="unknown-command"),
    pytest.param(["run"], "TARGET", id="no-target"),
    pytest.param(["run", ECHO, "--mode", "bogus"], "bogus", id="unknown-mode"),
    pytest.param(["run", ECHO, "--bogus"], "--bogus", id="unknown-option"),
    pytest.param(["run", ECHO, "-w"], "-w", id="value-missing"),
    pytest.param(["run", ECHO, "-w", "many"], "many", id="workers-no-number"),
    pytest.param(["run", ECHO, "-w", "-1"], "-1", id="workers-negative"),
    pytest.param(["run", ECHO, "-w", "0"], "0", id="workers-none"),
    pytest.param(["run", ECHO, "-m", "thread", "--threads", "0"], "0", id="threads-none"),
    pytest.param(["run", ECHO, "--max-connections", "0"], "0", id="connections-none"),
    pytest.param(["run", ECHO, "--drain-timeout", "soon"], "soon", id="drain-timeout"),
    pytest.param(["run", ECHO, "--boot-timeout", "-2"], "-2", id="boot-timeout"),
    pytest.param(["run", ECHO, "--log-level", "loud"], "loud", id="log-level"),
    pytest.param(["run", ECHO, "--ready-fd", "nine"], "nine", id="ready-fd"),
]


@pytest.mark.parametrize(("arguments", "word"), MALFORMED)
def test_malformed_command_line(arguments: list[str], word: str) -> None:
    """A malformed command line ends with status 2 and one line that names what is wrong."""
    assert_one_line(run_command(*arguments), 2, word)


ADDRESSES = [
    "tcp://127.0.0.1:notaport",
    "tcp://127.0.0.1:70000",
    "tcp://127.0.0.1",
    "tcp://::1:9000",
    "tcp://",
    "carrier-pigeon://127.0.0.1:9000",
    "127.0.0.1",
    "unix://",
    "tcp://127.0.0.1:0?backlog=none",
    "tcp://127.0.0.1:0?bogus=1",
    "unix:///tmp/x?mode=999",
]


@pytest.mark.parametrize("address", ADDRESSES)
def test_bad_address(address: str) -> None:
    """An address that cannot be read ends with status 2 and one line that quotes it."""
    assert_one_line(run_command("run", ECHO, "-b", address), 2, address)


CONTRADICTIONS = [
    ["-m", "iterative", "--threads", "4"],
    ["-m", "process", "--threads", "4"],
    ["-m", "iterative", "--spare", "2"],
    ["-m", "thread", "--spare", "2"],
    ["-m", "prefork", "--spare", "2"],
    ["-m", "iterative", "--connections-per-child", "3"],
    ["-m", "thread", "--connections-per-child", "3"],
    ["-m", "prefork", "--connections-per-child", "3"],
]


@pytest.mark.parametrize("flags", CONTRADICTIONS, ids=" ".join)
def test_flag_of_another_mode(flags: list[str]) -> None:
    """A flag that the mode has no use for is a usage error that names the flag and the mode."""
    assert_one_line(run_command("run", ECHO, "-b", TCP, *flags), 2, flags[2], flags[1])


ENVIRONMENTS = [
    ("FORKSERVE_MODE", "bogus"),
    ("FORKSERVE_WORKERS", "many"),
    ("FORKSERVE_THREADS", "many"),
    ("FORKSERVE_MAX_CONNECTIONS", "0"),
    ("FORKSERVE_DRAIN_TIMEOUT", "soon"),
    ("FORKSERVE_LOG_LEVEL", "loud"),
    ("FORKSERVE_BIND", "tcp://127.0.0.1:notaport"),
]


@pytest.mark.parametrize("command", ["run", "check"])
@pytest.mark.parametrize(("name", "value"), ENVIRONMENTS)
def test_bad_environment(command: str, name: str, value: str) -> None:
    """A wrong value in the environment ends with status 78 and names the variable."""
    done = run_command(command, ECHO, env={name: value})
    assert_one_line(done, 78, name, value)


def test_environment_contradicts_the_mode() -> None:
    """A variable that contradicts the chosen mode ends with status 78 and names itself."""
    done = run_command("run", ECHO, "-m", "iterative", env={"FORKSERVE_THREADS": "4"})
    assert done.returncode == 78, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "FORKSERVE_THREADS" in done.stderr or "--threads" in done.stderr


def test_environment_sets_what_the_command_line_does_not() -> None:
    """A variable counts where the command line says nothing, and the command line wins."""
    with starting(ACTS, "-b", TCP, env={"FORKSERVE_MODE": "process"}) as server:
        server.wait_until_ready(1)
        first, second = (clients.ask_line(server.address, "pid") for _ in range(2))
        assert first != second
    with starting(ACTS, "-b", TCP, "-m", "thread", env={"FORKSERVE_MODE": "process"}) as server:
        server.wait_until_ready(1)
        first, second = (clients.ask_line(server.address, "pid") for _ in range(2))
        assert first == second


def test_port_in_use(taken: int) -> None:
    """A port that is taken ends with status 1 and names the address."""
    done = run_command("run", ECHO, "-b", f"tcp://127.0.0.1:{taken}")
    assert_one_line(done, 1, f"127.0.0.1:{taken}", "in use")


def test_address_of_another_machine() -> None:
    """An address that is not ours ends with status 1 and names it."""
    assert_one_line(run_command("run", ECHO, "-b", "tcp://192.0.2.1:9000"), 1, "192.0.2.1")


def test_host_that_does_not_resolve() -> None:
    """A name that means no address ends with status 1 and names it."""
    done = run_command("run", ECHO, "-b", "tcp://no-such-host.invalid:9000")
    assert_one_line(done, 1, "no-such-host.invalid")


WITHOUT_CAPABILITIES = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"]


def test_privileged_port() -> None:
    """A port that needs a privilege we lack ends with status 1 and names the address."""
    requires("setpriv")
    requires_root()
    if int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) <= 80:
        pytest.skip("port 80 is not privileged here")
    done = run_command("run", ECHO, "-b", "tcp://127.0.0.1:80", under=WITHOUT_CAPABILITIES)
    assert_one_line(done, 1, "127.0.0.1:80", "ermission denied")


def test_folder_without_permission(tmp_path: Path) -> None:
    """A folder where we may not write ends with status 1, names the path, and keeps the folder."""
    folder = tmp_path / "foreign"
    folder.mkdir()
    folder.chmod(0o555)
    under: list[str] = []
    if os.geteuid() == 0:
        requires("setpriv")
        under = WITHOUT_CAPABILITIES
    done = run_command("run", ECHO, "-b", f"unix://{folder}/s", under=under)
    assert_one_line(done, 1, f"{folder}/s", "ermission denied")
    assert list(folder.iterdir()) == []


NO_TARGETS = [
    pytest.param("no-colon", "no-colon", id="form"),
    pytest.param("no_such_module_anywhere:Echo", "no_such_module_anywhere", id="module"),
    pytest.param(f"{ROOT}/no/such/file.py:Echo", "no/such/file.py", id="file"),
    pytest.param(handler("echo.py:NoSuchName"), "NoSuchName", id="name"),
    pytest.param(f"{REFUSED}:NUMBER", "NUMBER", id="number"),
    pytest.param(f"{REFUSED}:TEXT", "TEXT", id="text"),
    pytest.param(f"{REFUSED}:Plain", "Plain", id="class"),
    pytest.param(f"{REFUSED}:Client", "Client", id="server-class"),
    pytest.param(f"{REFUSED}:two", "two", id="two-arguments"),
    pytest.param(f"{REFUSED}:keyword", "keyword", id="keyword-argument"),
    pytest.param(f"{REFUSED}:nothing", "nothing", id="makes-no-server"),
    pytest.param(f"{REFUSED}:coroutine", "coroutine", id="coroutine-function"),
    pytest.param(f"{REFUSED}:awaitable", "awaitable", id="coroutine-object"),
    pytest.param("socketserver:TCPServer", "TCPServer", id="stock-server-class"),
]


@pytest.mark.parametrize("command", ["run", "check"])
@pytest.mark.parametrize(("target", "word"), NO_TARGETS)
def test_no_handler(command: str, target: str, word: str) -> None:
    """A target that is not there or is no handler ends with status 4 and one line that names it."""
    arguments = ["-b", TCP] if command == "run" else []
    assert_one_line(run_command(command, target, *arguments), 4, word)


RAISING = [
    pytest.param("raise ValueError('on purpose')", "on purpose", id="ValueError"),
    pytest.param("import no_such_dependency", "no_such_dependency", id="ImportError"),
    pytest.param("def broken(:", "SyntaxError", id="SyntaxError"),
    pytest.param("import sys; sys.exit(0)", "SystemExit", id="exit-0"),
    pytest.param("import sys; sys.exit(3)", "SystemExit", id="exit-3"),
    pytest.param("raise KeyboardInterrupt", "KeyboardInterrupt", id="KeyboardInterrupt"),
    pytest.param("raise BaseException('on purpose')", "on purpose", id="BaseException"),
]


@pytest.mark.parametrize("command", ["run", "check"])
@pytest.mark.parametrize(("source", "word"), RAISING)
def test_module_that_raises(command: str, source: str, word: str, tmp_path: Path) -> None:
    """Whatever the user's module raises ends with status 4, its traceback, and the file's name."""
    (tmp_path / "faulty.py").write_text(f"{source}\n")
    arguments = ["-b", f"unix://{tmp_path}/s"] if command == "run" else []
    done = run_command(command, "faulty:Echo", *arguments, cwd=tmp_path)
    assert done.returncode == 4, done.stderr
    assert word in done.stderr
    assert "faulty" in done.stderr
    assert sum(line.startswith("forkserve: ") for line in done.stderr.splitlines()) == 1
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("error", ["EAGAIN", "ENOMEM"])
def test_no_process_for_the_first_workers(error: str, tmp_path: Path) -> None:
    """Where no worker can be forked at the start, that ends with status 3 and the reason."""
    requires("strace")
    fails = [f"--inject={call}:error={error}" for call in ("clone", "clone3", "fork", "vfork")]
    command = [sys.executable, "-m", "forkserve", "run", ECHO, "-b", f"unix://{tmp_path}/s"]
    done = subprocess.run(
        ["strace", "-qq", "-o", "/dev/null", *fails, *command],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 3, done.stderr
    assert done.stderr.splitlines()[-1].startswith("forkserve: error: cannot fork a leader")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "s").exists()


def test_check_approves() -> None:
    """`check` ends with status 0 for a target and settings that would do."""
    done = run_command("check", ECHO, "-m", "thread", "--threads", "4")
    assert done.returncode == 0, done.stderr


def test_check_binds_nothing(taken: int, tmp_path: Path) -> None:
    """`check` has no need of the addresses and makes no socket file."""
    binds = ["-b", f"tcp://127.0.0.1:{taken}", "-b", f"unix://{tmp_path}/s"]
    done = run_command("check", ECHO, *binds)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "s").exists()


def test_check_refuses_a_contradiction() -> None:
    """`check` refuses what `run` would."""
    assert_one_line(run_command("check", ECHO, "-m", "iterative", "--threads", "4"), 2, "--threads")


def test_version() -> None:
    """`--version` prints the name and the version on standard output."""
    done = run_command("--version")
    assert done.returncode == 0
    assert re.fullmatch(r"forkserve \d+\.\d+\S*\n", done.stdout)
    assert done.stderr == ""


def test_help_names_the_commands() -> None:
    """`--help` tells which commands there are."""
    done = run_command("--help")
    assert done.returncode == 0
    assert "run" in done.stdout
    assert "check" in done.stdout


@pytest.fixture(scope="module")
def run_help() -> str:
    """Return what `run --help` prints."""
    done = run_command("run", "--help", env={"COLUMNS": "100", "NO_COLOR": "1"})
    assert done.returncode == 0
    return done.stdout


OPTIONS = [
    "bind",
    "mode",
    "workers",
    "threads",
    "spare",
    "connections-per-child",
    "max-connections",
    "drain-timeout",
    "boot-timeout",
    "ready-fd",
    "log-level",
    "access-log",
]


@pytest.mark.parametrize("option", OPTIONS)
def test_help_has_every_option(option: str, run_help: str) -> None:
    """`run --help` names each option and its variable."""
    assert f"--{option}" in run_help
    assert f"FORKSERVE_{option.upper().replace('-', '_')}" in run_help


def test_help_leaves_no_option_out(run_help: str) -> None:
    """Every option that `run --help` shows has its variable, but for help itself."""
    shown = set(re.findall(r"^\s+(?:-\w(?: \S+)?, )?--([a-z][a-z-]*)", run_help, re.MULTILINE))
    variables = set(re.findall(r"FORKSERVE_([A-Z_]+)", run_help))
    assert {name.upper().replace("-", "_") for name in shown - {"help"}} <= variables


@pytest.mark.parametrize(
    "default", ["tcp://127.0.0.1:9000", "prefork", "auto", "1024", "25", "60", "info"]
)
def test_help_tells_the_defaults(default: str, run_help: str) -> None:
    """`run --help` tells what each option is when nobody says anything."""
    assert re.search(rf"default[^)\n]*\n?[^)\n]*{re.escape(default)}", run_help)


@pytest.mark.smoke
def test_ready_lines_in_order(tmp_path: Path) -> None:
    """One ready line for each address, in the order of -b, each with the port that was taken."""
    addresses = [f"unix://{tmp_path}/z", TCP, f"unix://{tmp_path}/a", "127.0.0.1:0"]
    with running(ECHO, address=addresses) as server:
        first, second, third, fourth = server.addresses
        assert (first, third) == (addresses[0], addresses[2])
        assert clients.port_of(second) != 0
        assert clients.port_of(fourth) not in {0, clients.port_of(second)}
        for address in server.addresses:
            assert clients.ask(address, b"hello") == b"hello"


def test_no_ready_line_when_one_address_fails(taken: int, tmp_path: Path) -> None:
    """If one address fails, no ready line appears and no socket file stays."""
    binds = ["-b", f"unix://{tmp_path}/s", "-b", f"tcp://127.0.0.1:{taken}", "-b", TCP]
    done = run_command("run", ECHO, *binds)
    assert_one_line(done, 1, str(taken))
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_ready_line_has_no_level(level: str) -> None:
    """No log level hides the ready line."""
    with running(ECHO, "thread", "--log-level", level) as server:
        assert len(server.addresses) == 1


def test_log_level_hides_what_is_below() -> None:
    """At the level of errors, an orderly life logs nothing at all but that it is ready."""
    with running(ECHO, "prefork", "--log-level", "error") as server:
        clients.ask(server.address, b"hello")
        server.stop()
        assert server.stderr_so_far() == f"forkserve: listening on {server.address}\n"


def test_log_level_shows_more() -> None:
    """Debug says more than info."""
    lengths = []
    for level in ("info", "debug"):
        with running(ECHO, "thread", "--log-level", level) as server:
            clients.ask(server.address, b"hello")
            server.stop()
            lengths.append(len(server.stderr_so_far().splitlines()))
    assert lengths[1] > lengths[0]


def test_ready_fd(tmp_path: Path) -> None:
    """The addresses are written to --ready-fd, one a line, and the descriptor is closed."""
    reader, writer = os.pipe()
    try:
        flags = ["--ready-fd", str(writer)]
        addresses = [TCP, f"unix://{tmp_path}/s"]
        with running(ECHO, "prefork", *flags, address=addresses, pass_fds=[writer]) as server:
            os.close(writer)
            text = b""
            while chunk := _read_within(reader, 5.0):
                text += chunk
            assert text.decode().splitlines() == server.addresses
    finally:
        os.close(reader)


@pytest.mark.parametrize("mode", ["iterative", "thread", "process", "prefork"])
def test_standard_descriptors_that_are_closed(mode: str, tmp_path: Path) -> None:
    """They lead nowhere: what a handler opens must not get their numbers, and our log in it."""
    address = f"unix://{tmp_path}/s"
    closed = ("sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh")
    with starting(ACTS, "-m", mode, "-b", address, under=closed):
        eventually((tmp_path / "s").exists)
        links = clients.ask_json(address, "links")
        assert [links[number] for number in "012"] == ["/dev/null"] * 3


def _read_within(descriptor: int, timeout: float) -> bytes:
    """Return the next bytes of a pipe, or nothing at its end, which must come in time."""
    readable, _, _ = select.select([descriptor], [], [], timeout)
    assert readable, "the descriptor stayed open"
    return os.read(descriptor, 65536)


def test_ready_fd_that_is_not_open() -> None:
    """A --ready-fd that is no open descriptor ends with one line that names it."""
    done = run_command("run", ECHO, "-b", TCP, "--ready-fd", "77")
    assert done.returncode != 0
    assert len(done.stderr.splitlines()) == 1
    assert "77" in done.stderr


def test_dual_stack() -> None:
    """`:PORT` is one socket for IPv4 and IPv6, and shows an IPv4 peer as plain IPv4."""
    requires_ipv6()
    with running(ACTS, "thread", address=":0") as server:
        assert len(server.addresses) == 1
        port = clients.port_of(server.address)
        seen = clients.ask_json(f"tcp://127.0.0.1:{port}", "describe")
        assert seen["client_address"][0] == seen["peer"][0] == "127.0.0.1"
        seen = clients.ask_json(f"tcp://[::1]:{port}", "describe")
        assert seen["client_address"][0] == seen["peer"][0] == "::1"


def test_host_with_two_addresses(tmp_path: Path) -> None:
    """A host that resolves to several addresses is bound on all of them, on one port."""
    requires_ipv6()
    requires("unshare")
    requires_root()
    (tmp_path / "hosts").write_text("127.0.0.1 twofold\n::1 twofold\n")
    script = f'mount --bind {tmp_path}/hosts /etc/hosts; exec "$@"'
    under = ["unshare", "-m", "sh", "-c", script, "sh"]
    with running(ACTS, "prefork", address="twofold:0", under=under) as server:
        port = clients.port_of(server.address)
        assert clients.ask_line(f"tcp://127.0.0.1:{port}", "echo four") == "four"
        assert clients.ask_line(f"tcp://[::1]:{port}", "echo six") == "six"


def test_ipv6_address() -> None:
    """An IPv6 address is written in brackets, in a ready line too."""
    requires_ipv6()
    with running(ACTS, address="tcp://[::1]:0") as server:
        assert server.address.startswith("tcp://[::1]:")
        assert clients.ask_line(server.address, "echo here") == "here"


def test_backlog() -> None:
    """The backlog is 2048 unless the address says otherwise."""
    requires("ss")
    with running(ECHO, address=[TCP, f"{TCP}?backlog=7"]) as server:
        shown = subprocess.run(["ss", "-Hltn"], capture_output=True, text=True, check=True).stdout
        queues = {line.split()[3]: int(line.split()[2]) for line in shown.splitlines()}
        first, second = (f"127.0.0.1:{clients.port_of(one)}" for one in server.addresses)
        limit = int(Path("/proc/sys/net/core/somaxconn").read_text())
        assert queues[first] == min(2048, limit)
        assert queues[second] == 7


@pytest.mark.parametrize("mode", ["iterative", "thread", "process", "prefork"])
def test_access_log(mode: str) -> None:
    """With --access-log each connection is one line that names its peer."""
    with running(ACTS, mode, "--access-log") as server:
        ports = []
        for _ in range(3):
            with clients.connect(server.address) as client:
                ports.append(client.getsockname()[1])
                clients.command(client, "echo here")
                client.shutdown(socket.SHUT_WR)
                clients.read_to_end(client)
        for port in ports:
            server.wait_for_line(rf"127\.0\.0\.1\D+{port}\b", 5)
        server.stop()
        for port in ports:
            assert len(re.findall(rf"\b{port}\b", server.stderr_so_far())) == 1


def test_no_access_log() -> None:
    """Nobody asked for a line a connection, so there is none."""
    with running(ACTS, "prefork") as server:
        with clients.connect(server.address) as client:
            port = client.getsockname()[1]
            clients.command(client, "echo here")
        server.stop()
        assert not re.search(rf"\b{port}\b", server.stderr_so_far())


def test_target_as_module() -> None:
    """A target may be `package.module:name`, found from the current folder."""
    with running("tests.handlers.echo:Stream") as server:
        assert clients.ask(server.address, b"hello") == b"hello"


def test_target_as_relative_file() -> None:
    """A target may be `path/to/file.py:name`, from the current folder."""
    with running("tests/handlers/echo.py:Stream") as server:
        assert clients.ask(server.address, b"hello") == b"hello"


def test_target_with_its_neighbours(tmp_path: Path) -> None:
    """A target's module imports its neighbours in the current folder."""
    (tmp_path / "neighbour.py").write_text("WORD = b'from the neighbour'\n")
    source = "import neighbour\ndef serve(connection):\n    connection.sendall(neighbour.WORD)\n"
    (tmp_path / "target.py").write_text(source)
    for target in ("target:serve", "target.py:serve"):
        with running(target, cwd=tmp_path) as server:
            assert clients.ask(server.address, b"") == b"from the neighbour"


def test_default_address() -> None:
    """Without -b the server listens on tcp://127.0.0.1:9000."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", 9000))
        except OSError:
            pytest.skip("port 9000 of this machine is taken")
    with starting(ECHO) as server:
        server.wait_until_ready(1)
        assert server.address == "tcp://127.0.0.1:9000"
        assert clients.ask(server.address, b"hello") == b"hello"


@pytest.mark.parametrize(
    ("mode", "flags", "workers"),
    [
        ("prefork", ["-w", "3"], 3),
        ("prefork", ["-w", "auto"], len(os.sched_getaffinity(0))),
        ("iterative", [], 1),
        ("thread", [], 1),
        ("iterative", ["-w", "2"], 2),
        ("thread", ["-w", "2"], 2),
    ],
)
def test_number_of_workers(mode: str, flags: list[str], workers: int) -> None:
    """-w says how many processes serve, in any mode."""
    with running(ACTS, mode, *flags) as server:
        held = [clients.connect(server.address) for _ in range(workers)]
        pids = {
            clients.command(client, "pid") for client in held[: workers if mode != "thread" else 0]
        }
        for client in held:
            client.close()

        def count_seen() -> int:
            pids.add(clients.ask_line(server.address, "pid"))
            return len(pids)

        becomes(workers, count_seen)
        assert [count_seen() for _ in range(5 * workers)] == [workers] * 5 * workers


def test_installed_nothing(tmp_path: Path) -> None:
    """The command serves in an empty environment."""
    with running(ECHO, under=["env", "-i"], address=f"unix://{tmp_path}/s") as server:
        assert clients.ask(server.address, b"hello") == b"hello"
