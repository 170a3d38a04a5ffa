"""The day and time reach whoever asks, over TCP and UDP, from one server."""

import contextlib
import re
import socket
import subprocess
from collections.abc import Iterator

import pytest

from tests.support.clients import connect, port_of, read_to_end
from tests.support.requirements import requires
from tests.support.server import TCP, Server, running

MODES = ("iterative", "thread", "process", "prefork")
DAYTIME = "examples/daytime.py:daytime"
UDP = "udp://127.0.0.1:0"
ANSWER = re.compile(rb"[A-Z][a-z]+day, [A-Z][a-z]+ \d\d, \d{4} \d\d:\d\d:\d\d-UTC\r\n")


@contextlib.contextmanager
def serving(mode: str) -> Iterator[Server]:
    """Serve both transports until the block ends, where it is Greenwich time."""
    with running(DAYTIME, mode, address=[TCP, UDP], env={"TZ": "UTC"}) as server:
        yield server


@contextlib.contextmanager
def asker(address: str) -> Iterator[socket.socket]:
    """Yield a UDP socket that hears from this address only."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(10)
        client.connect(("127.0.0.1", port_of(address)))
        yield client


def output_of(*command: str, stdin: bytes = b"") -> bytes:
    """Return what a program printed; it must succeed."""
    ran = subprocess.run(command, input=stdin, capture_output=True, timeout=20, check=True)
    return ran.stdout


@pytest.mark.parametrize("mode", MODES)
def test_who_connects_gets_one_line_and_the_end(mode: str) -> None:
    """A client that says nothing gets one line, and then the server's end."""
    with serving(mode) as server, connect(server.addresses[0]) as client:
        answer = read_to_end(client)
    assert ANSWER.fullmatch(answer), answer


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("question", [b"", b"\n", b"\0" * 9000], ids=["empty", "line", "long"])
def test_any_datagram_gets_one_answer(mode: str, question: bytes) -> None:
    """As many answers come as datagrams were sent, an empty one counting too, and no more."""
    with serving(mode) as server, asker(server.addresses[1]) as client:
        client.send(question)
        client.send(question)
        answers = [client.recv(65536), client.recv(65536)]
        ended = server.stop()
        client.setblocking(False)
        with pytest.raises((BlockingIOError, ConnectionRefusedError)):
            client.recv(65536)
    assert ended == 0
    assert [bool(ANSWER.fullmatch(answer)) for answer in answers] == [True, True], answers


@pytest.mark.parametrize("mode", MODES)
def test_a_datagram_is_answered_from_the_address_it_was_sent_to(mode: str) -> None:
    """Bound to every address, the server answers from the one that was asked."""
    everywhere = "udp://0.0.0.0:0"
    with (
        running(DAYTIME, mode, address=everywhere, env={"TZ": "UTC"}) as server,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        client.settimeout(10)
        asked = ("127.0.0.2", port_of(server.address))
        client.sendto(b"", asked)
        answer, sender = client.recvfrom(65536)
    assert ANSWER.fullmatch(answer), answer
    assert sender == asked


@pytest.mark.parametrize("mode", MODES)
def test_nc_gets_the_time_over_tcp(mode: str) -> None:
    """Netcat prints the line and ends by itself."""
    requires("nc")
    with serving(mode) as server:
        answer = output_of("nc", "127.0.0.1", str(port_of(server.addresses[0])))
    assert ANSWER.fullmatch(answer), answer


@pytest.mark.parametrize("mode", MODES)
def test_nc_gets_the_time_over_udp(mode: str) -> None:
    """Netcat sends a line in a datagram, prints the answer, and ends after one datagram."""
    requires("nc")
    with serving(mode) as server:
        port = str(port_of(server.addresses[1]))
        answer = output_of("nc", "-u", "-W", "1", "127.0.0.1", port, stdin=b"\n")
    assert ANSWER.fullmatch(answer), answer


@pytest.mark.parametrize("mode", MODES)
def test_socat_gets_the_time_for_an_empty_datagram(mode: str) -> None:
    """Socat has nothing to send but an empty datagram, and that is answered."""
    requires("socat")
    with serving(mode) as server:
        peer = f"UDP4:127.0.0.1:{port_of(server.addresses[1])},shut-null"
        command = ["socat", "-t", "20", "-", peer]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as socat:
            assert socat.stdout
            answer = socat.stdout.readline()
            socat.terminate()  # it cannot know that no other datagram comes
    assert ANSWER.fullmatch(answer), answer
