"""Clients that nobody here wrote meet stock server objects, and notice no difference."""

import logging
import logging.handlers
import random
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xmlrpc.client import Binary, Fault, ServerProxy

import pytest

from tests.support.clients import at_once, port_of, read_wrk
from tests.support.modes import MODES, Mode, named
from tests.support.requirements import requires
from tests.support.server import TCP, Server, handler, running

every_mode = pytest.mark.parametrize("mode", MODES, ids=named(MODES))

METHODS = [
    *("add", "fail", "multiply", "pid", "pow"),
    *("system.listMethods", "system.methodHelp", "system.methodSignature", "turn"),
]
MEBIBYTE = random.Random("every byte counts").randbytes(1 << 20)


@contextmanager
def at_home(target: str, mode: Mode, folder: Path, **options: Any) -> Iterator[Server]:
    """Serve an object of ours at its own address."""
    with running(handler(target), *mode.arguments, address=(), cwd=folder, **options) as server:
        server.wait_until_ready(1)
        yield server


# -- XML-RPC


@contextmanager
def proxy(server: Server) -> Iterator[ServerProxy]:
    """Yield what calls the server's functions."""
    with ServerProxy(f"http://127.0.0.1:{port_of(server.address)}/RPC2", allow_none=True) as calls:
        yield calls


@every_mode
def test_xmlrpc_calls_one_after_another(mode: Mode, tmp_path: Path) -> None:
    """Functions, methods of an instance, faults and introspection work, 200 calls long."""
    with at_home("xmlrpc.py:server", mode, tmp_path) as server:
        with proxy(server) as calls:
            assert calls.system.listMethods() == METHODS
            assert calls.system.methodHelp("multiply") == "Return the product."
            assert [calls.add(n, 1) for n in range(100)] == [n + 1 for n in range(100)]
            assert [calls.multiply(n, 2) for n in range(100)] == [n * 2 for n in range(100)]
            with pytest.raises(Fault, match="raised on purpose"):
                calls.fail()
            assert calls.pow(2, 9) == 512
        assert server.stderr_so_far().count("\n") == 1


@every_mode
def test_xmlrpc_calls_at_once(mode: Mode, tmp_path: Path) -> None:
    """Twenty clients that call together all get what they asked for."""

    def ask(number: int) -> object:
        with proxy(server) as calls:
            return calls.pow(2, number)

    with at_home("xmlrpc.py:server", mode, tmp_path) as server:
        assert at_once(20, ask) == [2**number for number in range(20)]


@every_mode
def test_xmlrpc_brings_every_byte(mode: Mode, tmp_path: Path) -> None:
    """A mebibyte of binary data arrives, and comes back the other way round."""
    with at_home("xmlrpc.py:server", mode, tmp_path) as server, proxy(server) as calls:
        answer = calls.turn(Binary(MEBIBYTE))
        assert isinstance(answer, Binary)
        assert answer.data == MEBIBYTE[::-1]


@every_mode
def test_xmlrpc_elsewhere(mode: Mode, tmp_path: Path) -> None:
    """The same object is served where `-b` says."""
    target = handler("xmlrpc.py:server")
    with running(target, *mode.arguments, address=[TCP, ":0"], cwd=tmp_path) as server:
        for address in server.addresses:
            url = f"http://127.0.0.1:{port_of(address)}/RPC2"
            with ServerProxy(url) as calls:
                assert calls.add(2, 3) == 5


# -- log records


def send_records(address: str, name: str, count: int) -> None:
    """Log so many records through the standard library's handler for sockets."""
    sender = logging.handlers.SocketHandler("127.0.0.1", port_of(address))
    try:
        for number in range(count):
            level = (logging.INFO, logging.ERROR)[number % 2]
            record = (name, level, "here", 1, "record %d of %s", (number, name), None)
            sender.handle(logging.LogRecord(*record))
    finally:
        sender.close()


@every_mode
def test_log_records_arrive(mode: Mode, tmp_path: Path) -> None:
    """Every record of eight programs is in the receiver's file, each program's in order."""
    file = tmp_path / "received.log"
    env = {"LOG_FILE": str(file)}
    with at_home("log_receiver.py:receiver", mode, tmp_path, env=env) as server:
        at_once(8, lambda number: send_records(server.address, f"program{number}", 50))
    lines = file.read_text().splitlines()
    assert len(lines) == 8 * 50
    for number in range(8):
        name = f"program{number}"
        expected = [f"{name} {('INFO', 'ERROR')[n % 2]} record {n} of {name}" for n in range(50)]
        assert [line for line in lines if line.startswith(f"{name} ")] == expected


@every_mode
def test_a_log_record_of_a_mebibyte(mode: Mode, tmp_path: Path) -> None:
    """A record that comes in many pieces arrives whole."""
    file = tmp_path / "received.log"
    text = MEBIBYTE.hex()
    with at_home("log_receiver.py:receiver", mode, tmp_path, env={"LOG_FILE": str(file)}) as server:
        sender = logging.handlers.SocketHandler("127.0.0.1", port_of(server.address))
        sender.handle(logging.LogRecord("big", logging.INFO, "here", 1, text, None, None))
        sender.close()
    assert file.read_text() == f"big INFO {text}\n"


# -- HTTP


def output_of(*command: str) -> bytes:
    """Return what a program printed; it must succeed and complain of nothing."""
    ran = subprocess.run(command, capture_output=True, timeout=40, check=False)
    assert (ran.returncode, ran.stderr) == (0, b""), ran
    return ran.stdout


def url_of(server: Server, file: str) -> str:
    """Return the address of a file."""
    return f"{server.address.replace('tcp://', 'http://')}/{file}"


@every_mode
def test_curl_gets_every_byte(mode: Mode, tmp_path: Path) -> None:
    """A ThreadingHTTPServer object gives curl a mebibyte exactly as it lies in the folder."""
    requires("curl")
    (tmp_path / "mebibyte").write_bytes(MEBIBYTE)
    with at_home("servers.py:files", mode, tmp_path) as server:
        url = url_of(server, "mebibyte")
        for _ in range(3):
            assert output_of("curl", "-sS", "--fail", url) == MEBIBYTE


@every_mode
def test_curl_gets_every_byte_over_a_unix_socket(mode: Mode, tmp_path: Path) -> None:
    """An object made for TCP serves a Unix socket as well."""
    requires("curl")
    (tmp_path / "mebibyte").write_bytes(MEBIBYTE)
    path = f"{tmp_path}/files.sock"
    target = handler("servers.py:files")
    with running(target, *mode.arguments, address=f"unix://{path}", cwd=tmp_path):
        got = output_of("curl", "-sS", "--fail", "--unix-socket", path, "http://host/mebibyte")
    assert got == MEBIBYTE


@pytest.mark.heavy
@every_mode
def test_wrk_meets_no_error(mode: Mode, tmp_path: Path) -> None:
    """20 connections for a second end without a socket error or a bad status."""
    requires("wrk")
    (tmp_path / "page.html").write_bytes(MEBIBYTE[:4096])
    with at_home("servers.py:files", mode, tmp_path) as server:
        url = url_of(server, "page.html")
        report = output_of("wrk", "-t2", "-c20", "-d1s", "--timeout", "10s", url).decode()
    assert read_wrk(report) > 0
