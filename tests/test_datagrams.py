"""Every kind of handler means the same for datagrams in every mode, over UDP and Unix sockets."""

import json
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, closing
from itertools import product
from pathlib import Path
from signal import SIGTERM
from typing import Any

import pytest

from tests.support import clients
from tests.support.faults import Fifo, frozen, lines_of
from tests.support.modes import DATAGRAM_KINDS, MODE, MODES, MOSTLY_PLAIN, PLAIN_MODES, Kind, Mode
from tests.support.server import Server, handler, running
from tests.support.waiting import becomes, settled
from tests.test_contract import FAULTS, RAISED, open_descriptors

UDP = "udp://127.0.0.1:0"
OWN, FUNCTION, _, BASE = DATAGRAM_KINDS
ACT = OWN.acts
LARGEST = (bytes(range(251)) * 261)[:65507]  # more than that UDP cannot carry

Serve = Callable[..., AbstractContextManager[Server]]


def cross(kinds: list[Kind] = DATAGRAM_KINDS) -> list[Any]:
    """Return every kind in every mode over both transports, most of them heavy.

    Not heavy are our own kind in the plain modes and every kind in prefork mode over UDP, and our
    own in prefork mode over a Unix socket.
    """
    found = []
    for kind, mode, transport in product(kinds, MODES, ("udp", "unixgram")):
        if mode is MODE["prefork"]:
            is_plain = kind is OWN or transport == "udp"
        else:
            is_plain = kind is OWN and mode in PLAIN_MODES and transport == "udp"
        name = f"{kind.name}-{mode.name}-{transport}"
        marks = () if is_plain else pytest.mark.heavy
        found.append(pytest.param(kind, mode, transport, id=name, marks=marks))
    return found


def plain_in(mode: Mode, *names: str) -> Any:
    """Return a mode as a parameter, heavy unless it is one of these."""
    marks = () if mode.name in names else pytest.mark.heavy
    return pytest.param(mode, id=mode.name, marks=marks)


every_combination = pytest.mark.parametrize(("kind", "mode", "transport"), cross())
mostly_plain = pytest.mark.parametrize("mode", MOSTLY_PLAIN)
in_one_plainly = pytest.mark.parametrize("mode", [plain_in(mode, "prefork") for mode in MODES])
every_transport = pytest.mark.parametrize("transport", ["udp", "unixgram"])


@pytest.fixture
def serve(tmp_path: Path) -> Serve:
    """Return a way to serve a target in a mode, over UDP or over a Unix socket of this test."""

    def serve(
        target: str, mode: Mode, transport: str = "udp", **options: Any
    ) -> AbstractContextManager[Server]:
        address = UDP if transport == "udp" else f"unixgram://{tmp_path}/s"
        return running(target, *mode.arguments, address=address, **options)

    return serve


def workers_of(server: Server, mode: Mode) -> list[int]:
    """Return the processes that last: all but a datagram's own."""
    family = server.family() if mode.lasting else server.family()[:1]
    return [process.pid for process in family]


# -- bytes, and whose they are


@every_combination
def test_every_byte_comes_back(kind: Kind, mode: Mode, transport: str, serve: Serve) -> None:
    """Datagrams of none to the most bytes come back whole, and the empty one once (F124)."""
    payloads = [b"", b"x", LARGEST[:1000], b"", LARGEST]
    with ExitStack() as after:
        with serve(kind.echo, mode, transport) as server:
            client = after.enter_context(clients.sender(server.address))
            assert [clients.answer(client, payload) for payload in payloads] == payloads
        assert clients.waiting_datagrams(client) == []


@every_combination
def test_twenty_clients_at_once(kind: Kind, mode: Mode, transport: str, serve: Serve) -> None:
    """Twenty clients with ten datagrams each get their own answers, and none twice."""
    questions = [
        [b"client %d datagram %d " % (client, number) * (client + 1) for number in range(10)]
        for client in range(20)
    ]

    with serve(kind.echo, mode, transport) as server:

        def exchange(number: int) -> list[bytes]:
            with clients.sender(server.address, 30) as client:
                return clients.exchange_datagrams(client, questions[number])

        answers = clients.at_once(20, exchange)
    assert [sorted(own) for own in answers] == [sorted(own) for own in questions]


# -- the handler


@every_combination
def test_what_a_handler_raises_ends_its_datagram_only(
    kind: Kind, mode: Mode, transport: str, serve: Serve
) -> None:
    """Whatever a handler raises is said, and ends this datagram and nothing else (F43-F45)."""
    with serve(kind.acts, mode, transport, expect=RAISED) as server:
        workers = workers_of(server, mode)
        for fault in FAULTS:
            with clients.sender(server.address) as client:
                client.send(f"raise {fault}".encode())
                server.wait_for_line(f"raised {fault}")
            assert clients.ask_datagram(server.address, "echo fine") == "fine", fault
        with clients.sender(server.address) as client:
            client.send(b"sys.exit 3")
            server.wait_for_line(r"raised SystemExit\(3\)")
        assert clients.ask_datagram(server.address, "echo fine") == "fine"
        assert workers_of(server, mode) == workers


@every_combination
def test_handler_sees_whose_datagram_it_is(
    kind: Kind, mode: Mode, transport: str, serve: Serve
) -> None:
    """A handler finds its sender's address, its server's, and whether it stops."""
    with serve(kind.acts, mode, transport) as server, clients.sender(server.address) as client:
        seen = json.loads(clients.answer(client, b"describe"))
        here = json.loads(json.dumps(client.getsockname()))
        if transport == "udp":
            there: object = ["127.0.0.1", clients.port_of(server.address)]
        else:
            there = clients.path_of(server.address)
    if kind in (OWN, FUNCTION):
        assert seen["peer"] == here
        assert seen["local"] == there
        assert seen["truncated"] is False
    if kind is not FUNCTION:
        assert seen["client_address"] == here
        assert seen["server_address"] == there
        assert seen["stopping"] is False
        if transport == "udp":
            assert seen["socket"] == there


def test_answer_comes_from_the_configured_path(serve: Serve) -> None:
    """A Unix client sees its answer come from the path that it has asked."""
    with serve(ACT, MODE["prefork"], "unixgram") as server:
        with clients.sender(server.address) as client:
            client.send(b"echo fine")
            data, sender = client.recvfrom(100)
        assert (data, sender) == (b"fine", clients.path_of(server.address))


@every_transport
@pytest.mark.parametrize("name", ["Steps", "StepsRequest"])
@in_one_plainly
def test_three_steps(name: str, mode: Mode, transport: str, serve: Serve) -> None:
    """A handler is set up, handles and finishes in this order, also where handle() raises."""
    target = handler(f"datagrams.py:{name}")
    with serve(target, mode, transport, expect=RAISED) as server:
        assert clients.ask_datagram(server.address, "") == "setup handle finish"
        assert clients.ask_datagram(server.address, "raise") == "setup handle finish"
        server.wait_for_line("raised on purpose")


# -- what is left


@every_combination
def test_nothing_accumulates(kind: Kind, mode: Mode, transport: str, serve: Serve) -> None:
    """After 60 more datagrams the processes and their descriptors are what they were."""
    with serve(kind.echo, mode, transport) as server, clients.sender(server.address) as client:
        assert [clients.answer(client, b"first") for _ in range(20)] == [b"first"] * 20
        before = settled(lambda: open_descriptors(server, mode))
        assert [clients.answer(client, b"next") for _ in range(60)] == [b"next"] * 60
        becomes(before, lambda: open_descriptors(server, mode))
        becomes(True, lambda: len(server.processes()) <= len(before) + mode.waiting)
        becomes([], lambda: [one for one in server.processes() if one.state == "Z"])


@every_combination
def test_stop_answers_what_has_come(
    kind: Kind, mode: Mode, transport: str, serve: Serve, tmp_path: Path
) -> None:
    """At a stop the handler at work finishes, and the queue before it is served (F74, F75)."""
    queued = [b"echo %d" % number for number in range(6)]
    with (
        closing(Fifo(tmp_path)) as fifo,
        serve(kind.acts, mode, transport) as server,
        clients.sender(server.address) as busy,
        clients.sender(server.address) as client,
    ):
        assert clients.answer(busy, f"announce wait-for {fifo.path}".encode()) == b"started"
        with frozen(process.pid for process in server.family()):
            for payload in queued:
                client.send(payload)
            server.signal(SIGTERM)
            server.wait_for_line("TERM")
        fifo.release()
        assert busy.recv(100) == b"released"
        answers = {client.recv(100) for _ in queued}
        assert answers == {payload.removeprefix(b"echo ") for payload in queued}
        assert server.wait() == 0
        assert not Path(f"{tmp_path}/s").exists()


@mostly_plain
def test_handler_at_work_knows_of_the_stop(mode: Mode, serve: Serve, tmp_path: Path) -> None:
    """`stopping` is false before a stop, and true for what is served after it."""
    with (
        serve(ACT, mode) as server,
        clients.sender(server.address) as client,
    ):
        assert clients.answer(client, b"stopping") == b"false"
        with frozen(process.pid for process in server.family()):
            client.send(b"stopping")
            server.signal(SIGTERM)
            server.wait_for_line("TERM")
        assert client.recv(100) in (b"true", b"false")
        assert server.wait() == 0


# -- server objects

OBJECTS = ["make_udp", "make_threading_udp", "make_forking_udp", "make_unix", "make_threading_unix"]


def serve_object(name: str, mode: Mode, tmp_path: Path, **options: Any) -> Any:
    """Serve what a function makes."""
    env = {"SOCKET_PATH": f"{tmp_path}/own"}
    return running(handler(f"datagrams.py:{name}"), *mode.arguments, env=env, **options)


@pytest.mark.parametrize("name", OBJECTS)
@in_one_plainly
def test_object_is_served_at_its_own_address(name: str, mode: Mode, tmp_path: Path) -> None:
    """A server object is served where it has bound itself, whatever its mix-in would do."""
    with serve_object(name, mode, tmp_path, address=[], expect=RAISED) as server:
        server.wait_until_ready(1)
        with clients.sender(server.address) as client:
            seen = json.loads(clients.answer(client, b"describe"))
            assert seen["server_address"] == json.loads(json.dumps(client.getpeername()))
            answers = clients.exchange_datagrams(client, [b"echo %d" % n for n in range(50)])
            assert sorted(answers) == sorted(b"%d" % number for number in range(50))
        with clients.sender(server.address) as client:
            client.send(b"raise ValueError")
            server.wait_for_line("raised ValueError")
        assert clients.ask_datagram(server.address, "echo fine") == "fine"
    assert not (tmp_path / "own").exists()


@mostly_plain
def test_object_is_moved(mode: Mode, tmp_path: Path) -> None:
    """A server object is served at the addresses that the command names instead."""
    addresses = [UDP, f"unixgram://{tmp_path}/s"]
    with serve_object("make_udp", mode, tmp_path, address=addresses) as server:
        for address in server.addresses * 2:
            assert clients.ask_datagram(address, "echo here") == "here"


@in_one_plainly
def test_object_keeps_its_ways(mode: Mode, tmp_path: Path) -> None:
    """What a server object overrides is called: to receive, to verify and to finish."""
    with (
        serve_object("make_careful_udp", mode, tmp_path, address=UDP) as server,
        clients.sender(server.address) as client,
    ):
        client.send(b"a stranger")
        assert clients.answer(client, b"let me in") == b"let me in! finished"
    assert lines_of(server.stderr_so_far(), "WARNING|ERROR") == []
