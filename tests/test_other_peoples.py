"""Servers of other packages run unmodified, and their own clients get the same answers."""

import contextlib
import io
import socket
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from tests.support.clients import at_once, port_of
from tests.support.modes import MODES, Mode
from tests.support.requirements import requires, requires_package
from tests.support.server import ROOT, running, starting

CLIENTS = 20
IN_TEST_EXTRA = {"dnslib", "fakeredis", "jsonrpclib", "pyzor", "umodbus", "werkzeug"}
Peer = tuple[str, int]
Ask = Callable[[Peer, int], object]


@dataclass(frozen=True, slots=True)
class Guest:
    """A package's server, and what a client of it asks and has to get."""

    name: str
    target: str
    package: str
    ask: Ask
    answer: Callable[[int], object]
    tools: tuple[str, ...] = ()
    scheme: str = "tcp"

    @property
    def is_in_test_extra(self) -> bool:
        """Tell whether CI has the package."""
        return self.package in IN_TEST_EXTRA


# -- the clients, each the package's own where it has one


def look_up(tcp: bool) -> Ask:
    """Return a client that asks for the address of a name."""

    def ask(peer: Peer, number: int) -> object:
        from dnslib import DNSRecord

        question = DNSRecord.question(f"{number}.example")
        answer = DNSRecord.parse(question.send(*peer, tcp=tcp, timeout=20))
        assert answer.header.id == question.header.id
        return str(answer.get_a().rdata)

    return ask


def address_of(number: int) -> object:
    """Return the address that belongs to a name."""
    return f"192.0.2.{number}"


def read_registers(peer: Peer, number: int) -> object:
    """Read three registers twice over one connection."""
    from umodbus.client import tcp

    with socket.create_connection(peer, 20) as client:
        ask = tcp.read_holding_registers(1, number, 3)
        return [tcp.send_message(ask, client), tcp.send_message(ask, client)]


def three_registers(number: int) -> object:
    """Return these registers twice."""
    return [[3 * number, 3 * number + 3, 3 * number + 6]] * 2


def http(peer: Peer) -> str:
    """Return the beginning of an address on the web."""
    return f"http://{peer[0]}:{peer[1]}"


def post(peer: Peer, number: int) -> object:
    """Send a form twice over one connection, if the server keeps it."""
    url = f"{http(peer)}/{number}"
    return output_of("curl", "-sS", "--fail", "-d", f"body {number}", url, url)


def posted(number: int) -> object:
    """Return what the page says of two forms."""
    return f"POST /{number} body {number}\n" * 2


def get(peer: Peer, number: int) -> object:
    """Ask twice for a page over one connection, if the server keeps it."""
    url = f"{http(peer)}/{number}"
    return output_of("curl", "-sS", "--fail", url, url)


def greeted(number: int) -> object:
    """Return what the page says twice."""
    return f"GET {number}\n" * 2


def output_of(*command: str) -> str:
    """Return what a program printed; it must succeed and complain of nothing."""
    ran = subprocess.run(command, capture_output=True, text=True, timeout=40, check=False)
    assert (ran.returncode, ran.stderr) == (0, ""), ran
    return ran.stdout


def keep_a_key(peer: Peer, number: int) -> object:
    """Set, read, count and delete over one connection."""
    import redis

    with redis.Redis(*peer, single_connection_client=True) as client:
        key, count = f"key {number}", f"count {number}"
        done = client.set(key, number), client.get(key), client.incr(count)
        return *done, client.delete(key, count), client.get(key)


def kept(number: int) -> object:
    """Return what Redis answers to that."""
    return True, str(number).encode(), 1, 2, None


def calculate(peer: Peer, number: int) -> object:
    """Call a function twice over one connection."""
    import jsonrpclib

    proxy = jsonrpclib.ServerProxy(http(peer))
    with contextlib.closing(proxy("transport")):
        return proxy.pow(2, number), proxy.pow(3, number)


def calculated(number: int) -> object:
    """Return the two powers."""
    return 2**number, 3**number


def pong(peer: Peer, number: int) -> object:
    """Ask for the fixed record of a digest."""
    from pyzor.client import Client

    answer = Client(timeout=20).pong(f"{number:040x}", peer)
    return answer["Code"], answer["Diag"], answer["Count"], answer["WL-Count"]


def ponged(number: int) -> object:
    """Return the largest count, which pyzor gives for every digest."""
    return "200", "OK", str(2**63 - 1), "0"


def clone(peer: Peer, number: int) -> object:
    """Clone the repository in the current folder and return its log."""
    url, copy = f"git://{peer[0]}:{peer[1]}{Path.cwd()}/origin", f"clone-{number}"
    output_of("git", "clone", "--quiet", url, copy)
    return output_of("git", "-C", copy, "log", "--format=%s")


def cloned(number: int) -> object:
    """Return the log of that repository."""
    return "Second\nFirst\n"


def read_share(peer: Peer, number: int) -> object:
    """Log in, read a file and log off."""
    from impacket.smbconnection import SMBConnection

    host, port = peer
    client = SMBConnection(host, host, sess_port=port, timeout=20)
    with contextlib.closing(client):
        client.login(f"user{number}", "")
        content = io.BytesIO()
        client.getFile("FILES", "file", content.write)
        client.logoff()
    return content.getvalue()


def shared(number: int) -> object:
    """Return what is in the file."""
    return b"content"


GUESTS = [
    Guest("dnslib-udp", "zone.py:udp", "dnslib", look_up(tcp=False), address_of, scheme="udp"),
    Guest("dnslib-tcp", "zone.py:tcp", "dnslib", look_up(tcp=True), address_of),
    Guest("umodbus", "registers.py:server", "umodbus", read_registers, three_registers),
    Guest("werkzeug", "page.py:server", "werkzeug", post, posted, ("curl",)),
    Guest("fakeredis", "keys.py:server", "fakeredis", keep_a_key, kept),
    Guest("jsonrpclib", "calculator.py:server", "jsonrpclib", calculate, calculated),
    Guest("pyzor", "digests.py:make", "pyzor", pong, ponged, scheme="udp"),
    Guest("dulwich", "repositories.py:server", "dulwich", clone, cloned, ("git",)),
    Guest("impacket", "share.py:server", "impacket", read_share, shared),
    Guest("django", "greeting.py:server", "django", get, greeted, ("curl",)),
]
PLAIN = {"thread", "prefork"}


def everywhere() -> list[Any]:
    """Return every guest in every mode; not heavy are those CI has in two modes."""
    return [
        pytest.param(
            guest,
            mode,
            id=f"{guest.name}-{mode.name}",
            marks=() if guest.is_in_test_extra and mode.name in PLAIN else pytest.mark.heavy,
        )
        for guest, mode in product(GUESTS, MODES)
    ]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Go to a folder with a file, where git clones as it would for nobody in particular."""
    (tmp_path / "file").write_bytes(b"content")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    return tmp_path


def commit_twice(origin: Path) -> None:
    """Make a repository of two commits."""
    who = ("-c", "user.name=A", "-c", "user.email=a@example.org")
    output_of("git", "init", "--quiet", "--initial-branch=main", str(origin))
    output_of("git", "-C", str(origin), *who, "commit", "-q", "--allow-empty", "-mFirst")
    output_of("git", "-C", str(origin), *who, "commit", "-q", "--allow-empty", "-mSecond")


def target_of(guest: Guest, folder: Path) -> str:
    """Return what to serve, once all is there that the guest and its client need."""
    requires_package(guest.package, in_ci=guest.is_in_test_extra)
    requires(*guest.tools)
    if "git" in guest.tools:
        commit_twice(folder / "origin")
    return f"{ROOT}/tests/other_peoples/{guest.target}"


@pytest.mark.parametrize(("guest", "mode"), everywhere())
def test_twenty_clients_at_once_get_their_answers(guest: Guest, mode: Mode, folder: Path) -> None:
    """Each its own, at the address the server chose; TERM ends it in order, with nothing left."""
    target = target_of(guest, folder)
    with starting(target, "-m", *mode.arguments, cwd=folder) as server:
        server.wait_until_ready(1)
        peer = "127.0.0.1", port_of(server.address)
        answers = at_once(CLIENTS, lambda number: guest.ask(peer, number))
        assert answers == [guest.answer(number) for number in range(CLIENTS)]
        assert server.stop() == 0


@pytest.mark.heavy
@pytest.mark.parametrize("guest", GUESTS, ids=[guest.name for guest in GUESTS])
def test_an_address_on_the_command_line_takes_the_place_of_its_own(
    guest: Guest, folder: Path
) -> None:
    """Its clients find it there, as they would have found it at home."""
    target = target_of(guest, folder)
    address = f"{guest.scheme}://127.0.0.2:0"
    with running(target, "prefork", "-w", "2", address=address, cwd=folder) as server:
        assert server.address.startswith(f"{guest.scheme}://127.0.0.2:")
        assert guest.ask(("127.0.0.2", port_of(server.address)), 1) == guest.answer(1)
