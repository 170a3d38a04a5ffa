"""The examples run as their README says, in every mode."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.clients import fetch
from tests.support.server import ROOT, running

MODES = ("iterative", "thread", "process", "prefork")
CLIENT = ROOT / "examples/client.py"
WALK = re.compile(
    r"connected to .+\n"
    r"send\(4194304 bytes\) returned (\d+): the other [1-9]\d* were not sent\n"
    r"recv, called until it had brought \1 bytes: the same bytes came back\n"
    r"sendall\(13 bytes\) returned: everything is on its way\n"
    r"(?:recv\(4\) returned b'.{1,4}'\n){4,13}"
    r"sendall\(10 bytes\), shutdown\(SHUT_WR\): we have said everything, and still listen\n"
    r"recv until it returned b'': b'last words', then the server's end\n"
    r"closed\n"
)


def walk(address: str) -> str:
    """Return what the teaching client printed."""
    ran = subprocess.run(
        [sys.executable, CLIENT, re.sub(r"^\w+://", "", address)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["Echo", "echo"])
def test_echo_answers_the_client_over_tcp(mode: str, name: str) -> None:
    """The class and the function each bring the client to the end of its walk."""
    with running(f"examples/echo.py:{name}", mode) as server:
        printed = walk(server.address)
    assert WALK.fullmatch(printed), printed


@pytest.mark.parametrize("mode", MODES)
def test_echo_answers_the_client_over_a_unix_socket(mode: str, tmp_path: Path) -> None:
    """The client's walk is the same over a Unix socket."""
    with running("examples/echo.py:Echo", mode, address=f"unix://{tmp_path}/echo.sock") as server:
        printed = walk(server.address)
    assert WALK.fullmatch(printed), printed


@pytest.mark.parametrize("mode", MODES)
def test_files_gives_a_file_of_the_current_folder(mode: str, tmp_path: Path) -> None:
    """The unmodified HTTP handler gives what is in the folder the server was started in."""
    (tmp_path / "hello.txt").write_bytes(b"hello\n")
    with running(f"{ROOT}/examples/files.py:Files", mode, cwd=tmp_path) as server:
        assert fetch(server.address, "/hello.txt") == b"hello\n"


@pytest.mark.smoke
@pytest.mark.parametrize("target", ["echo.py:Echo", "echo.py:echo", "files.py:Files"])
def test_an_example_needs_no_environment(target: str) -> None:
    """Each example is served from the project's folder with not one environment variable."""
    with running(f"examples/{target}", under=["env", "-i"]) as server:
        assert server.addresses
