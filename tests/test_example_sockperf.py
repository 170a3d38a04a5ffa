"""Sockperf gets every answer it wants, in every mode, over TCP and UDP."""

import re
import socket
import struct
import subprocess

import pytest

from tests.support.clients import connect, ends, exchange, port_of, read_exactly
from tests.support.requirements import requires
from tests.support.server import TCP, running

MODES = ("iterative", "thread", "process", "prefork")
SOCKPERF = "examples/sockperf_echo.py:sockperf"
UDP = "udp://127.0.0.1:0"
CLEAN = "# dropped messages = 0; # duplicated messages = 0; # out-of-order messages = 0"
PERCENTILE = re.compile(r"---> percentile (50|99)\.000 = +\d+\.\d+$", re.MULTILINE)

ASKS, TELLS, WARMS_UP, ANSWERS = 3, 1, 7, 2


def message(number: int, flags: int, payload: bytes = b"") -> bytes:
    """Return a message as sockperf makes it."""
    return struct.pack("!QHI", number, flags, 14 + len(payload)) + payload


SENT = [message(1, WARMS_UP), message(2, ASKS), message(3, TELLS, b"x"), message(4, ASKS, b"abc")]
WANTED = [message(2, ANSWERS), message(4, ANSWERS, b"abc")]


@pytest.mark.heavy
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_sockperf_prints_percentiles_and_misses_nothing(mode: str, transport: str) -> None:
    """A second of ping-pong: no message was lost, doubled, swapped or changed."""
    requires("sockperf")
    with running(SOCKPERF, mode, address=[TCP, UDP]) as server:
        port = str(port_of(server.addresses[transport == "udp"]))
        command = ["sockperf", "ping-pong", "-i", "127.0.0.1", "-p", port, "-t", "1", "-m", "1400"]
        command += ["--tcp"] * (transport == "tcp") + ["--data-integrity"]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=40, check=False)
    report = ran.stdout + ran.stderr
    assert ran.returncode == 0, report
    assert CLEAN in report
    assert len(PERCENTILE.findall(report)) == 2, report


@pytest.mark.parametrize("mode", MODES)
def test_only_who_asks_over_udp_is_answered(mode: str) -> None:
    """An answer is the message with the client's flag cleared; what asks for none gets none."""
    with (
        running(SOCKPERF, mode, address=UDP) as server,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        client.settimeout(10)
        client.connect(("127.0.0.1", port_of(server.address)))
        for datagram in [b"", b"13 bytes long", *WANTED, *SENT]:
            client.send(datagram)
        answers = [client.recv(65536), client.recv(65536)]
        server.stop()
        client.setblocking(False)
        with pytest.raises((BlockingIOError, ConnectionRefusedError)):
            client.recv(65536)
    assert sorted(answers) == WANTED


@pytest.mark.parametrize("mode", MODES)
def test_only_who_asks_over_tcp_is_answered(mode: str) -> None:
    """The same holds for messages of a stream, each as long as its header says."""
    with running(SOCKPERF, mode) as server, connect(server.address) as client:
        assert exchange(client, b"".join(SENT)) == b"".join(WANTED)


def test_where_a_stream_is_cut_does_not_matter() -> None:
    """A message that comes byte by byte is answered when it is whole."""
    with running(SOCKPERF) as server, connect(server.address) as client:
        for byte in SENT[-1]:
            client.send(bytes([byte]))
        assert read_exactly(client, len(WANTED[-1])) == WANTED[-1]


def test_the_largest_message_is_answered() -> None:
    """A message of a mebibyte, which no one call of recv brings, comes back whole."""
    payload = bytes(range(256)) * 4096
    with running(SOCKPERF) as server, connect(server.address) as client:
        answer = exchange(client, message(1, ASKS, payload[14:]))
    assert answer == message(1, ANSWERS, payload[14:])


@pytest.mark.parametrize("size", [0, 13, (1 << 20) + 1, (1 << 32) - 1])
def test_a_length_that_cannot_be_ends_the_connection(size: int) -> None:
    """A message shorter than its header, or larger than sockperf makes any, is not waited for."""
    with running(SOCKPERF) as server, connect(server.address) as client:
        client.sendall(struct.pack("!QHI", 1, ASKS, size))
        assert ends(client)


def test_a_quiet_client_does_not_hold_up_a_stop() -> None:
    """Between two messages a stop ends the connection at once."""
    with running(SOCKPERF) as server, connect(server.address) as client:
        client.sendall(SENT[-1])
        assert read_exactly(client, len(WANTED[-1])) == WANTED[-1]
        assert server.stop(timeout=10) == 0
        assert ends(client)
