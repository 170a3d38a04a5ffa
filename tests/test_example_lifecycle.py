"""The walk through one connection shows every state as the kernel has it."""

import functools
import re
import shutil
import subprocess
import sys

import pytest

from tests.support.requirements import requires, requires_root
from tests.support.server import ROOT

OWN_NETWORK = ("unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh")
STEP = re.compile(r"^ ?\d+ (.{33})(\S+) +(\S+) +(\S.*)$", re.MULTILINE)

START = [
    ("server: socket()", "-", "-", "CLOSE"),
    ("server: bind()", "-", "-", "CLOSE"),
    ("server: listen()", "-", "-", "LISTEN"),
    ("client: socket()", "CLOSE", "-", "LISTEN"),
    ("client: connect(), SYN dropped", "SYN_SENT", "-", "LISTEN"),
    ("SYN arrives, ACK overlooked", "ESTABLISHED", "SYN_RECV", "LISTEN"),
    ("client: sendall(b'hello')", "ESTABLISHED", "ESTABLISHED", "LISTEN, 1 queued"),
    ("server: accept()", "ESTABLISHED", "ESTABLISHED", "LISTEN"),
    ("server: recv(), sendall()", "ESTABLISHED", "ESTABLISHED", "LISTEN"),
]
CLIENT_FIRST = [
    ("client: shutdown(), FIN dropped", "FIN_WAIT1", "ESTABLISHED", "LISTEN"),
    ("FIN arrives", "FIN_WAIT2", "CLOSE_WAIT", "LISTEN"),
    ("server: shutdown(), FIN dropped", "FIN_WAIT2", "LAST_ACK", "LISTEN"),
    ("FIN arrives; server: close()", "TIME_WAIT", "-", "LISTEN"),
    ("client: close()", "TIME_WAIT", "-", "LISTEN"),
    ("server: bind() there again", "TIME_WAIT", "-", "CLOSE"),
]
SERVER_FIRST = [
    ("server: shutdown(), FIN dropped", "ESTABLISHED", "FIN_WAIT1", "LISTEN"),
    ("FIN arrives", "CLOSE_WAIT", "FIN_WAIT2", "LISTEN"),
    ("client: shutdown(), FIN dropped", "LAST_ACK", "FIN_WAIT2", "LISTEN"),
    ("FIN arrives; client: close()", "-", "TIME_WAIT", "LISTEN"),
    ("server: close()", "-", "TIME_WAIT", "LISTEN"),
    ("server: bind() there again", "-", "TIME_WAIT", "CLOSE"),
]
CLIENT_RESETS = [
    ("client: SO_LINGER 0, close()", "-", "CLOSE", "LISTEN"),
    ("server: close()", "-", "-", "LISTEN"),
    ("server: bind() there again", "-", "-", "CLOSE"),
]
SERVER_RESETS = [
    ("server: SO_LINGER 0, close()", "CLOSE", "-", "LISTEN"),
    ("client: close()", "-", "-", "LISTEN"),
    ("server: bind() there again", "-", "-", "CLOSE"),
]


@functools.cache
def own_network() -> tuple[str, ...]:
    """Return what gives a program a network of its own, if we may have one.

    The kernel's table, which the walk reads again and again, is short there: other tests leave
    connections in TIME_WAIT by the ten thousand.
    """
    may = (
        shutil.which("unshare")
        and not subprocess.run(
            [*OWN_NETWORK, "true"], capture_output=True, timeout=40, check=False
        ).returncode
    )
    return OWN_NETWORK if may else ()


@functools.cache
def walk(*options: str, under: tuple[str, ...] = ()) -> str:
    """Return what the walk printed, started with not one environment variable."""
    ran = subprocess.run(
        [
            *own_network(),
            *under,
            *("env", "-i", sys.executable, "-W", "error", "examples/tcp_lifecycle.py", *options),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    return ran.stdout


def steps(printed: str) -> list[tuple[str, str, str, str]]:
    """Return the table: what was done, and the states of client, server and listener."""
    return [(call.rstrip(), *states) for call, *states in STEP.findall(printed)]


def words(printed: str) -> str:
    """Return what was printed as one line."""
    return " ".join(printed.split())


@pytest.mark.parametrize(
    ("options", "end"),
    [
        ((), CLIENT_FIRST),
        (("--close", "server"), SERVER_FIRST),
        (("--reset",), CLIENT_RESETS),
        (("--reset", "--close", "server"), SERVER_RESETS),
    ],
)
def test_each_step_shows_the_states_of_both_ends(
    options: tuple[str, ...], end: list[tuple[str, str, str, str]]
) -> None:
    """Handshake, data and close pass through the states of RFC 9293, whoever closes and how."""
    assert steps(walk(*options)) == START + end


@pytest.mark.parametrize(
    ("options", "outcome"),
    [
        ((), "It succeeded"),
        (("--close", "server"), "Address already in use, by TIME_WAIT"),
        (("--reset", "--close", "server"), "It succeeded"),
    ],
)
def test_the_port_is_taken_only_while_time_wait_is_the_servers(
    options: tuple[str, ...], outcome: str
) -> None:
    """Whoever closes first in order gets TIME_WAIT, and it holds the server's port if it is his."""
    assert f"CLOSE {outcome}" in words(walk(*options))


def test_the_data_and_the_ends_are_what_recv_returned() -> None:
    """Data is there before accept(), and still passes one way when the other has ended."""
    said = words(walk())
    assert "The server's recv() returned b'hello', which had waited" in said
    assert "the client's returned b'welcome'" in said
    assert "The server's recv() returned b''. It may still send" in said
    assert "the client's returned b'bye'" in said


def test_a_reset_raises_at_the_other_end() -> None:
    """The end that did not reset learns of it by an error from recv()."""
    assert "The server's recv() raised [Errno 104] Connection reset by peer" in words(
        walk("--reset")
    )


def test_it_needs_no_privilege() -> None:
    """Without one capability the walk is the same; what holds packets back is for everybody."""
    requires("setpriv")
    requires_root()
    assert walk(under=("setpriv", "--bounding-set=-all", "--inh-caps=-all")) == walk()


def test_no_line_is_wider_than_a_terminal() -> None:
    """The table and its text fit into 80 columns."""
    assert max(map(len, walk().splitlines())) <= 80
