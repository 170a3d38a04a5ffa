"""What the README shows is run as it stands there, only on a free port."""

import os
import re
import signal
import socket
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.support import clients
from tests.support.server import running

TOP = Path(__file__).parent.parent
README = (TOP / "README.md").read_text()
PROGRAMS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
SHOUT, ASK, DATAGRAM, IN_PROCESS, TALK, SHOP = PROGRAMS


def shown(pattern: str) -> list[str]:
    """Return the words of the one command in the README that matches."""
    (line,) = [
        line for line in README.splitlines() if line.startswith("    ") and re.search(pattern, line)
    ]
    return line.split()


def split_run(words: list[str]) -> tuple[str, list[str]]:
    """Return the target and the flags of a run command, without its addresses."""
    assert words[:4] == ["python3", "-m", "forkserve", "run"]
    target, *flags = words[4:]
    while "-b" in flags:
        at = flags.index("-b")
        del flags[at : at + 2]
    return target, flags


def test_the_first_command_serves_an_echo() -> None:
    """The README's first command serves from a bare checkout."""
    target, flags = split_run(shown(r"run examples/echo\.py"))
    with running(target, flags[1], cwd=TOP) as server:
        assert clients.ask(server.address, b"hello\n") == b"hello\n"


def test_the_ten_line_handler_answers(tmp_path: Path) -> None:
    """The handler in ten lines does what the sentence above it says."""
    target, flags = split_run(shown(r"shout\.py:Shout .*unix:"))
    (tmp_path / "shout.py").write_text(SHOUT)
    with running(str(tmp_path / target), flags[1]) as server:
        assert clients.ask(server.address, b"one\ntwo\n") == b"ONE\nTWO\n"


def test_the_datagram_handler_answers(tmp_path: Path) -> None:
    """The handler of datagrams answers over UDP and over a Unix socket."""
    target, flags = split_run(shown(r"shout\.py:Shout .*udp:"))
    (tmp_path / "shout.py").write_text(DATAGRAM)
    addresses = ["udp://127.0.0.1:0", f"unixgram://{tmp_path}/s"]
    with running(str(tmp_path / target), flags[1], address=addresses) as server:
        udp, path = server.addresses
        with socket.socket(type=socket.SOCK_DGRAM) as client:
            client.settimeout(10)
            client.sendto(b"hello", ("127.0.0.1", clients.port_of(udp)))
            assert client.recv(100) == b"HELLO"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
            client.settimeout(10)
            client.bind(f"{tmp_path}/client")
            client.sendto(b"hello", clients.path_of(path))
            assert client.recv(100) == b"HELLO"
    (tmp_path / "client").unlink()


def test_the_handler_that_leaves_at_once(tmp_path: Path) -> None:
    """The handler with idle() answers, and a quiet client does not hold up its stop."""
    (tmp_path / "ask.py").write_text(ASK)
    with (
        running(f"{tmp_path}/ask.py:Ask", "thread") as server,
        clients.connect(server.address) as client,
    ):
        client.sendall(b"one\n")
        assert clients.read_line(client) == b"one\n"
        server.signal(signal.SIGTERM)
        assert clients.read_to_end(client) == b""


def test_the_in_process_program_runs() -> None:
    """The program that serves in its own process runs to its end."""
    subprocess.run(
        [sys.executable, "-W", "error", "-c", IN_PROCESS], check=True, cwd=TOP, timeout=30
    )


def test_the_handler_with_a_pool_answers(tmp_path: Path) -> None:
    """What worker_start opens is what the handler uses."""
    (tmp_path / "shop.py").write_text(SHOP)
    with running(f"{tmp_path}/shop.py:Shop", "prefork", "--threads", "8", cwd=tmp_path) as server:
        answers = [clients.ask(server.address, b"") for _ in range(5)]
    assert answers == [b"(42,)"] * 5


@cache
def run_to_end(*arguments: str, cwd: Path = TOP) -> str:
    """Return what a command of ours prints before it ends well."""
    command = [sys.executable, "-m", "forkserve", *arguments]
    return subprocess.run(
        command,
        stdout=subprocess.PIPE,
        text=True,
        cwd=cwd,
        timeout=170,
        check=True,
        env=os.environ | {"PYTHONPATH": str(TOP)},
    ).stdout


@pytest.mark.heavy
@pytest.mark.timeout(180)
def test_the_benchmark_recommends_a_mode() -> None:
    """The README's benchmark of the echo prints tables and the command to type."""
    words = shown(r"forkserve bench")
    assert words[:3] == ["python3", "-m", "forkserve"]
    assert "forkserve run examples/echo.py:Echo -m " in run_to_end(*words[3:])


@pytest.mark.heavy
@pytest.mark.timeout(180)
def test_the_scripted_conversation_is_held(tmp_path: Path) -> None:
    """The script of the README holds its conversation with a server that speaks first."""
    (tmp_path / "talk.py").write_text(TALK)
    (tmp_path / "greet.py").write_text(
        """def greet(connection):
    connection.send_all(b"220 ready\\r\\n")
    assert connection.recv_until(b"\\n") == b"NOOP\\r\\n"
    connection.send_all(b"250 OK\\r\\n")
"""
    )
    flags = ["--modes", "thread", "--concurrency", "2", "--quick", "--send", "@talk.py"]
    assert "use thread" in run_to_end("bench", "greet.py:greet", *flags, cwd=tmp_path)


@pytest.mark.parametrize("name", re.findall(r"`(--[a-z-]+)[ `]", README))
def test_every_flag_in_the_text_exists(name: str) -> None:
    """The README names no flag that the command does not know."""
    assert name in run_to_end("run", "--help") + run_to_end("bench", "--help")


@pytest.mark.parametrize(
    "path", sorted(set(re.findall(r"`(?:forkserve/)?([a-z_]+(?:\.py|/))`", README)))
)
def test_every_file_in_the_map_exists(path: str) -> None:
    """The README sends nobody to a file that is not there."""
    assert (TOP / "forkserve" / path).exists() or (TOP / path).exists() or path == "shout.py"
