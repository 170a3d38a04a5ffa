"""Speak to a server as exactly as a test needs it."""

import contextlib
import http.client
import json
import os
import re
import secrets
import select
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar
from urllib.parse import urlsplit

Result = TypeVar("Result")

EVERYWHERE = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}


def port_of(address: str) -> int:
    """Return the port of a TCP address."""
    port = urlsplit(address).port
    assert port is not None, f"no port in {address}"
    return port


def path_of(address: str) -> str:
    """Return the path of a Unix address."""
    return urlsplit(address).path


def connect(address: str, timeout: float = 20.0) -> socket.socket:
    """Open a connection to an address as a ready line names it."""
    parts = urlsplit(address)
    if parts.scheme == "unix":
        client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        client.settimeout(timeout)
        try:
            client.connect(parts.path)
        except BaseException:
            client.close()
            raise
        return client
    host = parts.hostname or ""
    return socket.create_connection((EVERYWHERE.get(host, host), port_of(address)), timeout)


@contextlib.contextmanager
def several(address: str, count: int) -> Iterator[list[socket.socket]]:
    """Yield so many open connections, and close them after the block."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(connect(address)) for _ in range(count)]


def read_to_end(client: socket.socket) -> bytes:
    """Return whatever the peer still sends, up to its end of file."""
    received = bytearray()
    while chunk := client.recv(65536):
        received += chunk
    return bytes(received)


def read_exactly(client: socket.socket, size: int) -> bytes:
    """Return exactly so many bytes, fewer only if the peer ends before."""
    received = bytearray()
    while len(received) < size and (chunk := client.recv(size - len(received))):
        received += chunk
    return bytes(received)


def read_line(client: socket.socket) -> bytes:
    """Return the next line with its end, less only if the peer ends before."""
    received = bytearray()
    while not received.endswith(b"\n") and (byte := client.recv(1)):
        received += byte
    return bytes(received)


def exchange(client: socket.socket, payload: bytes, timeout: float = 30.0) -> bytes:
    """Send a payload, half-close, and read to the end; write and read at the same time."""
    client.setblocking(False)
    received, unsent = bytearray(), memoryview(payload)
    while True:
        wanted = [client] if unsent else []
        readable, writable, _ = select.select([client], wanted, [], timeout)
        assert readable or writable, f"nothing moved for {timeout} s"
        if writable:
            unsent = unsent[client.send(unsent[:65536]) :]
            if not unsent:
                client.shutdown(socket.SHUT_WR)
        if readable:
            chunk = client.recv(65536)
            if not chunk:
                return bytes(received)
            received += chunk


def ask(address: str, payload: bytes, timeout: float = 20.0) -> bytes:
    """Return the whole answer of one connection to one payload."""
    with connect(address, timeout) as client:
        return exchange(client, payload, timeout)


def command(client: socket.socket, line: str) -> str:
    """Send one line to a handler that acts on lines, and return the line it answers."""
    client.sendall(line.encode() + b"\n")
    return read_line(client).decode().rstrip("\n")


def ask_line(address: str, line: str, timeout: float = 20.0) -> str:
    """Return the answer to one line on a connection of its own."""
    with connect(address, timeout) as client:
        return command(client, line)


def ask_json(address: str, line: str) -> Any:
    """Return the decoded answer to one line on a connection of its own."""
    return json.loads(ask_line(address, line))


@contextlib.contextmanager
def in_service(address: str, line: str) -> Iterator[socket.socket]:
    """Yield a client whose handler is just busy with this line."""
    with connect(address, 30) as client:
        assert command(client, f"announce {line}") == "started"
        yield client


def reset(client: socket.socket) -> None:
    """End a connection with a reset instead of an orderly end."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def ends(client: socket.socket) -> bool:
    """Tell whether the peer has ended the connection, in order or by a reset, and sent nothing."""
    try:
        return client.recv(65536) == b""
    except ConnectionError:
        return True


def count_cut(address: str, answer_size: int, bodies: int = 250) -> int:
    """Send bodies that nobody reads, and return how many answers are not of this size."""
    cut = 0
    for _ in range(bodies):
        with connect(address) as client:
            client.sendall(b"x" * 100_000)
            cut += len(read_to_end(client)) != answer_size
    return cut


def at_once(count: int, act: Callable[[int], Result]) -> list[Result]:
    """Do something with so many clients at the same time, and return what each got."""
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(act, range(count)))


def read_wrk(report: str) -> int:
    """Return how many requests wrk says that it made, all of them with success."""
    assert "Socket errors" not in report, report
    assert "Non-2xx" not in report, report
    requests = re.search(r"(\d+) requests in", report)
    assert requests, report
    return int(requests[1])


class _UnixHTTPConnection(http.client.HTTPConnection):
    def __init__(self, address: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._address = address

    def connect(self) -> None:
        self.sock = connect(self._address, self.timeout or 10.0)


def fetch(address: str, path: str, timeout: float = 20.0) -> bytes:
    """Return the body of a file that an HTTP server gives."""
    with contextlib.closing(_UnixHTTPConnection(address, timeout)) as client:
        client.request("GET", path)
        response = client.getresponse()
        assert response.status == 200, response.status
        return response.read()


@contextlib.contextmanager
def sender(address: str, timeout: float = 20.0, host: str = "") -> Iterator[socket.socket]:
    """Yield a datagram socket that sends to an address, or to that port of another host.

    It has an address of its own, and gets only what comes from the address it sends to.
    """
    parts = urlsplit(address)
    with contextlib.ExitStack() as stack:
        if parts.scheme == "unixgram":
            client = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
            own = f"{parts.path}-{secrets.token_hex(4)}"
            client.bind(own)
            stack.callback(os.unlink, own)
            client.connect(parts.path)
        else:
            host = host or EVERYWHERE.get(parts.hostname or "", parts.hostname or "")
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            client = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
            client.connect((host, port_of(address)))
        client.settimeout(timeout)
        yield client


def answer(client: socket.socket, payload: bytes) -> bytes:
    """Send one datagram and return the next that comes."""
    client.send(payload)
    return client.recv(1 << 17)


def ask_datagram(address: str, payload: bytes | str, timeout: float = 20.0, host: str = "") -> str:
    """Return the answer to one datagram from a socket of its own."""
    with sender(address, timeout, host) as client:
        return answer(client, payload.encode() if isinstance(payload, str) else payload).decode()


def waiting_datagrams(client: socket.socket) -> list[bytes]:
    """Return what has come already, and do not wait for more."""
    found = []
    timeout = client.gettimeout()
    client.setblocking(False)
    with contextlib.suppress(BlockingIOError, ConnectionRefusedError):
        while True:
            found.append(client.recv(1 << 17))
    client.settimeout(timeout)
    return found


def exchange_datagrams(
    client: socket.socket, payloads: Sequence[bytes], window: int = 4
) -> list[bytes]:
    """Send every datagram, at most `window` of them unanswered, and return the answers.

    None is sent twice. Fails if one stays out; what came beyond the last answer is returned too.
    """
    answers: list[bytes] = []
    for sent, payload in enumerate(payloads):
        if sent - len(answers) >= window:
            answers.append(client.recv(1 << 17))
        client.send(payload)
    while len(answers) < len(payloads):
        answers.append(client.recv(1 << 17))
    return answers + waiting_datagrams(client)
