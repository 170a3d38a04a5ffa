"""Clients that nobody here wrote are served to the last byte, in every mode."""

import random
import subprocess
from pathlib import Path

import pytest

from tests.support.clients import at_once, path_of, read_wrk
from tests.support.requirements import requires
from tests.support.server import ROOT, running

MODES = ("iterative", "thread", "process", "prefork")
ECHO = f"{ROOT}/examples/echo.py:Echo"
FILES = f"{ROOT}/examples/files.py:Files"
MEBIBYTE = random.Random("every byte counts").randbytes(1 << 20)


def output_of(*command: str, stdin: bytes = b"") -> bytes:
    """Return what a program printed; it must succeed and complain of nothing."""
    ran = subprocess.run(command, input=stdin, capture_output=True, timeout=40, check=False)
    assert (ran.returncode, ran.stderr) == (0, b""), ran
    return ran.stdout


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make a folder with one file of a mebibyte."""
    (tmp_path / "mebibyte").write_bytes(MEBIBYTE)
    return tmp_path


@pytest.mark.parametrize("mode", MODES)
def test_curl_gets_every_byte_over_tcp(mode: str, folder: Path) -> None:
    """A mebibyte arrives exactly as it lies in the folder."""
    requires("curl")
    with running(FILES, mode, cwd=folder) as server:
        url = server.address.replace("tcp://", "http://") + "/mebibyte"
        assert output_of("curl", "-sS", "--fail", url) == MEBIBYTE


@pytest.mark.parametrize("mode", MODES)
def test_curl_gets_every_byte_over_a_unix_socket(mode: str, folder: Path) -> None:
    """An HTTP handler made for TCP serves a Unix socket as well."""
    requires("curl")
    address = f"unix://{folder}/files.sock"
    with running(FILES, mode, address=address, cwd=folder) as server:
        through = ("--unix-socket", path_of(server.address))
        got = output_of("curl", "-sS", "--fail", *through, "http://localhost/mebibyte")
    assert got == MEBIBYTE


@pytest.mark.heavy
@pytest.mark.parametrize("mode", MODES)
def test_wrk_meets_no_error(mode: str, tmp_path: Path) -> None:
    """16 connections for 2 s end without a socket error or a bad status."""
    requires("wrk")
    (tmp_path / "page.html").write_bytes(MEBIBYTE[:4096])
    with running(FILES, mode, cwd=tmp_path) as server:
        url = server.address.replace("tcp://", "http://") + "/page.html"
        report = output_of("wrk", "-t2", "-c16", "-d2s", "--timeout", "10s", url).decode()
    assert read_wrk(report) > 0


@pytest.mark.parametrize("mode", MODES)
def test_socat_gets_every_byte_back(mode: str, tmp_path: Path) -> None:
    """Four socats at once, each with a mebibyte for a Unix socket, each get their own back."""
    requires("socat")
    with running(ECHO, mode, address=f"unix://{tmp_path}/echo.sock") as server:
        peer = f"UNIX-CONNECT:{path_of(server.address)}"
        payloads = [MEBIBYTE[n:] + MEBIBYTE[:n] for n in range(4)]
        answers = at_once(4, lambda n: output_of("socat", "-t", "30", "-", peer, stdin=payloads[n]))
    assert answers == payloads
