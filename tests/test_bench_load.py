"""The load generator's word: what it says of each request is what became of it."""

import itertools
import os
import signal
import socket
import threading
from pathlib import Path

import pytest

from forkserve.bench.conversation import (
    Converse,
    DatagramExchange,
    Ending,
    Exchange,
    Pause,
    Read,
    ReadExactly,
    ReadToEnd,
    ReadUntil,
    Script,
    Send,
    Talk,
)
from forkserve.bench.figures import percentile
from forkserve.bench.load import Load, Order, Result
from tests.support.clients import read_line, read_to_end, reset
from tests.support.requirements import requires_ipv6
from tests.support.scripted import (
    Act,
    Reply,
    answer_all,
    answering,
    listen,
    listen_unix,
    name_of,
    remove,
    serving,
    serving_datagrams,
    udp,
)
from tests.support.waiting import Stopwatch, becomes, pause

PING = Exchange(b"ping\n", b"pong\n")
MEGABYTE = bytes(range(256)) * 4096


# -- the load


def load(address: str, converse: Converse, **order: object) -> Result:
    """Make load in this process: one connection unless told otherwise."""
    given = {"concurrency": 1, "seconds": 20.0, "connections": 1, "patience": 10.0, **order}
    return Load(Order(address, **given), converse).run()  # type: ignore[arg-type]


def outcomes(result: Result) -> dict[str, int]:
    """Return what became of the requests, without what did not happen."""
    return {name: count for name, count in result.outcomes.items() if count}


def against(act: Act, converse: Converse = PING, **order: object) -> Result:
    """Make load on a scripted TCP server."""
    with serving(act) as server:
        return load(server.address, converse, **order)


# -- every outcome


def test_right_answer_is_ok() -> None:
    """A connection whose answer is right to the last byte is good, and has one latency."""
    result = against(answering(b"pong\n"))
    assert outcomes(result) == {"ok": 1}
    assert len(result.latencies) == 1
    assert (result.complaint, result.script_error) == ("", "")


def test_nobody_listens_is_refused() -> None:
    """Where nobody listens a connection is refused."""
    with listen() as listener:
        address = name_of(listener)
    assert outcomes(load(address, PING)) == {"refused": 1}


def test_missing_unix_path_is_refused(tmp_path: Path) -> None:
    """Where there is no Unix socket a connection is refused."""
    assert outcomes(load(f"unix://{tmp_path}/none", PING)) == {"refused": 1}


def test_full_unix_backlog_is_refused(tmp_path: Path) -> None:
    """A Unix connection for which there is no place in the backlog is refused."""
    with listen_unix(tmp_path / "s", backlog=0) as listener, socket.socket(socket.AF_UNIX) as first:
        first.connect(listener.getsockname())
        assert outcomes(load(name_of(listener), PING)) == {"refused": 1}
        remove(listener)


def test_full_tcp_backlog_is_connect_timeout() -> None:
    """A TCP connection that nobody takes in is given up after its patience."""
    with listen(backlog=0) as listener, socket.socket() as first, socket.socket() as second:
        first.connect(listener.getsockname())
        second.setblocking(False)
        second.connect_ex(listener.getsockname())
        assert outcomes(load(name_of(listener), PING, patience=0.2)) == {"connect timeout": 1}


def test_listener_closed_meanwhile_is_reset_while_connecting() -> None:
    """A connection reset before we have seen that it was made is told from one reset later."""
    with listen() as listener:

        class Late(Load):
            def _wait(self, now: float) -> None:
                listener.close()
                super()._wait(now)

        result = Late(Order(name_of(listener), 1, 20.0, connections=1), PING).run()
    assert outcomes(result) == {"reset while connecting": 1}


def test_no_descriptors_left_is_complained_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client without a descriptor for its socket is counted, and told of."""

    def fail(*_: object) -> socket.socket:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("forkserve.bench.load.socket.socket", fail)
    result = load("tcp://127.0.0.1:1", PING, seconds=0.05, connections=0)
    assert set(outcomes(result)) == {"other"}
    assert "Too many open files" in result.complaint


def test_reset_is_reset() -> None:
    """A reset after the connection was made is told from an end."""

    def act(sock: socket.socket) -> None:
        read_line(sock)
        reset(sock)

    assert outcomes(against(act)) == {"reset": 1}


def test_reset_within_answer_is_reset() -> None:
    """A reset counts too when a part of the answer has come."""

    def act(sock: socket.socket) -> None:
        read_line(sock)
        sock.sendall(b"po")
        sock.recv(1)
        reset(sock)

    def converse(number: int, /) -> Talk:
        yield Send(b"ping\n")
        yield ReadExactly(2)
        yield Send(b"!")
        yield ReadExactly(3)

    assert outcomes(against(act, converse)) == {"reset": 1}


@pytest.mark.parametrize("answer", [b"", b"p", b"pong"])
def test_early_end_is_cut_short(answer: bytes) -> None:
    """An orderly end before the whole answer is there is cut short."""
    assert outcomes(against(answering(answer))) == {"cut short": 1}


@pytest.mark.parametrize("answer", [b"", b"pong"])
def test_silence_is_unanswered(answer: bytes) -> None:
    """A server that keeps the connection and does not answer in time has not answered."""
    done = threading.Event()

    def act(sock: socket.socket) -> None:
        answering(answer)(sock)
        done.wait(10)

    with serving(act) as server:
        result = load(server.address, PING, patience=0.2)
        done.set()
    assert outcomes(result) == {"unanswered": 1}


@pytest.mark.parametrize("place", [0, len(MEGABYTE) // 2, len(MEGABYTE) - 1])
@pytest.mark.parametrize("ending", Ending)
def test_one_wrong_byte_is_wrong_answer(place: int, ending: Ending) -> None:
    """One wrong byte in a megabyte is found wherever it is, and its place is told."""
    wrong = bytearray(MEGABYTE)
    wrong[place] ^= 1
    result = against(answering(bytes(wrong)), Exchange(b"ping\n", MEGABYTE, ending))
    assert outcomes(result) == {"wrong answer": 1}
    assert result.complaint.startswith(f"byte {place} of the answer: expected ")
    assert len(result.latencies) == 0


@pytest.mark.parametrize("ending", [Ending.SERVER, Ending.BOTH])
def test_short_answer_to_the_end_is_cut_short(ending: Ending) -> None:
    """An answer that the server's own end makes too short is cut short."""
    result = against(answering(b"pong"), Exchange(b"ping\n", b"pong\n", ending))
    assert outcomes(result) == {"cut short": 1}


@pytest.mark.parametrize("ending", Ending)
def test_extra_bytes_are_wrong(ending: Ending) -> None:
    """What follows the right answer makes it wrong."""
    result = against(answering(b"pong\n!"), Exchange(b"ping\n", b"pong\n", ending))
    assert outcomes(result) == {"wrong answer": 1}
    assert "follow the answer" in result.complaint or "goes on after" in result.complaint


def test_extra_bytes_on_an_idle_connection_are_wrong() -> None:
    """What comes on a kept connection before the next request falls due spoils the last answer."""
    go_on = threading.Event()

    def act(sock: socket.socket) -> None:
        answering(b"pong\n")(sock)
        go_on.wait(10)
        sock.sendall(b"!")
        read_to_end(sock)

    def converse(number: int, /) -> Talk:
        yield from PING(number)
        go_on.set()

    result = against(act, converse, requests=2, rate=2.0, seconds=0.6)
    assert outcomes(result)["wrong answer"] == 1
    assert result.outcomes["ok"] == len(result.latencies) <= 1


def test_late_extra_bytes_spoil_the_next_answer() -> None:
    """What comes while the next request is on its way is found in the next answer."""

    def act(sock: socket.socket) -> None:
        answering(b"pong\n")(sock)
        answering(b"!pong\n")(sock)

    assert outcomes(against(act, requests=2)) == {"ok": 1, "wrong answer": 1}


# -- scripts


def script(folder: Path, text: str) -> Script:
    """Return the script of a text."""
    path = folder / "talk.py"
    path.write_text("from forkserve.bench.conversation import *\n" + text)
    return Script(str(path))


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("def converse(n):\n    yield Send(b'')\n    1 / 0", "division by zero in line 4"),
        ("def converse(n):\n    yield Send(b'')\n    raise SystemExit", "SystemExit in line 4"),
        ("def converse(n):\n    return None", "is no generator"),
        ("def converse(n):\n    return [Send(b'')]", "is no generator"),
        ("def converse():\n    yield Send(b'')", "takes 0 positional arguments"),
        ("def converse(n):\n    yield b'ping'", "in line 3 yielded b'ping', which is no step"),
        ("def converse(n):\n    yield None", "in line 3 yielded None, which is no step"),
        ("def converse(n):\n    yield Send", "which is no step"),
        ("def converse(n):\n    yield Send('ping')", "in line 3 yielded Send(data='ping')"),
        ("def converse(n):\n    yield ReadExactly(-1)", "yielded ReadExactly(size=-1)"),
        ("def converse(n):\n    yield ReadUntil(b'')", "yielded ReadUntil(separator=b'')"),
        ("def converse(n):\n    yield Pause(-1)", "yielded Pause(seconds=-1)"),
        ("def converse(n):\n    yield Pause(float('nan'))", "yielded Pause(seconds=nan)"),
        ("def converse(n)\n    yield", "SyntaxError: "),
        ("def convers(n):\n    yield", "has no function converse(number)"),
        ("converse = 1", "has no function converse(number)"),
        ("1 / 0", "ZeroDivisionError: division by zero in line 2"),
    ],
)  # fmt: skip
def test_bad_script_ends_the_load(tmp_path: Path, body: str, told: str) -> None:
    """What is wrong with a script ends the load at once, and file and line are told."""
    result = against(answer_all, script(tmp_path, body), connections=0)
    assert told in result.script_error
    assert "talk.py" in result.script_error
    assert outcomes(result) == {"other": 1}


def test_missing_script_ends_the_load(tmp_path: Path) -> None:
    """A script that is not there is told of."""
    result = against(answer_all, Script(f"{tmp_path}/none.py"), connections=0)
    assert result.script_error == f"--send: there is no file '{tmp_path}/none.py'"


def test_script_names_its_own_line(tmp_path: Path) -> None:
    """An exception from a library is told with the line of the script that called it."""
    body = "import json\ndef converse(n):\n    yield Send(b'')\n    json.loads('{')"
    assert against(answer_all, script(tmp_path, body)).script_error.endswith(" in line 5")


@pytest.mark.parametrize(
    ("check", "told"),
    [
        ("assert answer == b'gong\\n'", "assertion failed in line 4"),
        ("assert answer == b'gong\\n', f'got {answer!r}'", "got b'pong\\n'"),
        ("raise WrongAnswer('not this')", "not this"),
    ],
)
def test_script_says_that_an_answer_is_wrong(tmp_path: Path, check: str, told: str) -> None:
    """An assertion of a script that does not hold is a wrong answer, with its text."""
    body = (
        "def converse(n):\n    yield Send(b'ping\\n'); answer = yield ReadUntil(b'\\n')\n"
        f"    {check}"
    )
    result = against(answer_all, script(tmp_path, body))
    assert outcomes(result) == {"wrong answer": 1}
    assert (result.complaint, result.script_error) == (told, "")


def test_script_counts_its_conversations(tmp_path: Path) -> None:
    """Conversations are numbered from 1, a pause of theirs does not count."""
    seen = tmp_path / "seen"
    body = (
        f"def converse(n):\n    with open({str(seen)!r}, 'a') as seen: print(n, file=seen)\n"
        "    yield Pause(0); yield Send(b'ping\\n'); yield ReadUntil(b'\\n')"
    )
    result = against(answer_all, script(tmp_path, body), connections=2, requests=2)
    assert outcomes(result) == {"ok": 4}
    assert seen.read_text() == "1\n2\n3\n4\n"


# -- bytes


@pytest.mark.parametrize("ending", Ending)
def test_megabyte_in_odd_chunks(ending: Ending) -> None:
    """A long answer is put together however it comes."""
    sizes = itertools.cycle([1, 7, 4096, 65537, 13, 99_991])

    def act(sock: socket.socket) -> None:
        read_line(sock)
        place = 0
        while place < len(MEGABYTE):
            place += sock.send(MEGABYTE[place : place + next(sizes)])

    result = against(act, Exchange(b"ping\n", MEGABYTE, ending), connections=3)
    assert outcomes(result) == {"ok": 3}


def test_megabyte_question_to_a_slow_server() -> None:
    """A long question arrives whole at a server that takes its time."""

    def act(sock: socket.socket) -> None:
        place = 0
        while place < len(MEGABYTE) and MEGABYTE.startswith(data := sock.recv(50_000), place % 256):
            place += len(data)
            pause(0.002)
        sock.sendall(b"all" if place == len(MEGABYTE) else b"not")

    assert outcomes(against(act, Exchange(MEGABYTE, b"all"))) == {"ok": 1}


def test_echo_of_what_is_still_being_sent(tmp_path: Path) -> None:
    """A server that sends before it has read all does not wait for us while we wait for it."""

    def act(sock: socket.socket) -> None:
        while data := sock.recv(65536):
            sock.sendall(data)

    with serving(act, listen_unix(tmp_path / "s")) as server:
        result = load(server.address, Exchange(MEGABYTE * 4, MEGABYTE * 4), patience=10.0)
    assert outcomes(result) == {"ok": 1}


def test_end_of_writing_reaches_the_server() -> None:
    """A server that reads to the end answers when we have ended our side."""

    def act(sock: socket.socket) -> None:
        sock.sendall(read_to_end(sock)[::-1])

    assert outcomes(against(act, Exchange(b"abc", b"cba", Ending.BOTH))) == {"ok": 1}


def test_separator_in_two_chunks() -> None:
    """A separator is found across chunks, and what follows it is kept for the next step."""
    heard: list[bytes] = []

    def act(sock: socket.socket) -> None:
        sock.sendall(b"head\r\n\r")
        sock.recv(1)
        sock.sendall(b"\nbody")

    def converse(number: int, /) -> Talk:
        heard.append((yield ReadExactly(2)))
        yield Send(b"!")
        heard.append((yield ReadUntil(b"\r\n\r\n")))
        heard.append((yield Read()))
        heard.append((yield ReadExactly(0)))
        heard.append((yield ReadToEnd()))

    assert outcomes(against(act, converse)) == {"ok": 1}
    assert b"".join(heard) == b"head\r\n\r\nbody"
    assert heard[:2] == [b"he", b"ad\r\n\r\n"]


def test_empty_answer_is_no_wait() -> None:
    """Where no answer is expected none is waited for."""
    assert outcomes(against(read_to_end_silently, Exchange(b"log this\n", b""))) == {"ok": 1}


def read_to_end_silently(sock: socket.socket) -> None:
    """Read all and say nothing."""
    read_to_end(sock)


def test_server_speaks_first() -> None:
    """A server that speaks unasked is heard."""
    act: Act = lambda sock: sock.sendall(b"Monday\n")  # noqa: E731
    assert outcomes(against(act, Exchange(b"", b"Monday\n", Ending.SERVER))) == {"ok": 1}


def test_pause_does_nothing_for_a_time() -> None:
    """A pause keeps one client and no other."""
    ended: list[int] = []
    watch = Stopwatch()

    def converse(number: int, /) -> Talk:
        if number == 1:
            yield Pause(1.0)
        yield from PING(number)
        ended.append(number)

    result = against(answer_all, converse, concurrency=2, connections=2)
    assert outcomes(result) == {"ok": 2}
    assert ended == [2, 1]
    assert watch.seconds >= 1.0


def test_pause_beyond_patience_is_no_crash() -> None:
    """A client given up while it pauses is not taken up again when the pause ends."""

    def converse(number: int, /) -> Talk:
        if number == 1:
            yield Pause(0.6)
        yield from PING(number)

    result = against(answer_all, converse, connections=0, seconds=1.0, patience=0.1)
    assert result.outcomes["unanswered"] == 1
    assert set(outcomes(result)) == {"ok", "unanswered"}


# -- kept connections


@pytest.mark.parametrize("concurrency", [1, 4])
def test_kept_connections_make_their_requests(concurrency: int) -> None:
    """Each of N connections makes all of its requests."""
    with serving(answer_all) as server:
        result = load(server.address, PING, connections=8, requests=3, concurrency=concurrency)
    assert outcomes(result) == {"ok": 24}
    assert server.connections == 8


def test_connections_are_kept_for_as_long_as_there_is_time() -> None:
    """With 0 requests a connection is kept to the end."""
    with serving(answer_all) as server:
        result = load(server.address, PING, connections=0, requests=0, concurrency=3, seconds=0.2)
    assert set(outcomes(result)) == {"ok"}
    assert result.outcomes["ok"] > 30
    assert server.connections == 3


@pytest.mark.parametrize("served", [1, 3])
def test_server_ends_kept_connections(served: int) -> None:
    """A server may end a kept connection between two requests: no failure, and none is lost."""
    answered = itertools.count()

    def act(sock: socket.socket) -> None:
        for _ in range(served):
            if read_line(sock):
                next(answered)
                sock.sendall(b"pong\n")

    result = against(act, connections=0, requests=0, concurrency=4, seconds=0.5)
    assert set(outcomes(result)) == {"ok"}
    assert result.outcomes["ok"] == next(answered)


def test_server_ends_an_idle_connection() -> None:
    """A server may end a connection on which nothing has fallen due."""
    result = against(answering(b"pong\n"), connections=0, requests=0, rate=20.0, seconds=0.5)
    assert outcomes(result) == {"ok": 10}


@pytest.mark.parametrize("answer", [b"", b"po"])
def test_end_within_a_later_answer_is_cut_short(answer: bytes) -> None:
    """A server that has taken a second request and ends has not answered it."""

    def act(sock: socket.socket) -> None:
        answering(b"pong\n")(sock)
        answering(answer)(sock)

    assert outcomes(against(act, requests=2)) == {"ok": 1, "cut short": 1}


# -- how much


@pytest.mark.parametrize("address", ["tcp", "unix"])
def test_concurrency_is_never_exceeded(tmp_path: Path, address: str) -> None:
    """There are never more connections than were ordered, and as many if there is time."""

    def act(sock: socket.socket) -> None:
        read_line(sock)
        pause(0.01)
        sock.sendall(b"pong\n")
        sock.recv(1)

    listener = listen() if address == "tcp" else listen_unix(tmp_path / "s")
    with serving(act, listener, at_once=32) as server:
        result = load(server.address, PING, concurrency=5, connections=60)
        becomes(0, lambda: server.at_once)
    assert outcomes(result) == {"ok": 60}
    assert server.connections == 60
    assert server.most_at_once >= 4


def test_begun_are_never_more_than_the_concurrency() -> None:
    """The client's own count of conversations on their way stays within the concurrency."""
    counts = {"now": 0, "most": 0}

    def converse(number: int, /) -> Talk:
        counts["now"] += 1
        counts["most"] = max(counts["most"], counts["now"])
        yield from PING(number)
        counts["now"] -= 1

    assert outcomes(against(answer_all, converse, concurrency=7, connections=200)) == {"ok": 200}
    assert counts == {"now": 0, "most": 7}


def test_every_request_has_one_outcome() -> None:
    """However they end, there is one outcome for each request that was begun."""
    turn = itertools.count()
    acts: list[Act] = [
        answer_all,
        reset,
        answering(b"gong\n"),
        answering(b"po"),
        lambda sock: sock.shutdown(socket.SHUT_WR),
        lambda sock: (answering(b"pong\npong\n")(sock), read_to_end(sock))[0],
    ]
    begun = itertools.count()

    def converse(number: int, /) -> Talk:
        next(begun)
        yield from PING(number)

    with serving(lambda sock: acts[next(turn) % len(acts)](sock)) as server:
        result = load(server.address, converse, connections=120, concurrency=6, patience=0.5)
    unmade = sum(result.outcomes[name] for name in ("refused", "reset while connecting"))
    assert sum(result.outcomes.values()) == 120
    assert next(begun) == 120 - unmade
    assert result.outcomes["ok"] == len(result.latencies) == 20


def test_refused_clients_do_not_spin() -> None:
    """A client that is refused waits a little before it tries again, and the load ends in time."""
    with listen() as listener:
        address = name_of(listener)
    result = load(address, PING, concurrency=2, connections=0, seconds=0.3)
    assert set(outcomes(result)) == {"refused"}
    assert result.outcomes["refused"] <= 2 * 0.3 / 0.005 + 4


def test_stop_ends_a_run_early() -> None:
    """A stopped load lets what is on its way end, and returns what was found."""
    with serving(answer_all) as server:
        order = Order(server.address, 2, 60.0)
        one = Load(order, PING)
        timer = threading.Timer(0.2, one.stop)
        timer.start()
        watch = Stopwatch()
        result = one.run()
        timer.join()
    assert watch.seconds < 20
    assert set(outcomes(result)) == {"ok"}


def test_signal_ends_a_run_early() -> None:
    """What a signal handler stops ends, though the process sleeps."""
    with serving(read_to_end_silently) as server:
        one = Load(Order(server.address, 1, 60.0, rate=0.05, patience=0.5), PING)
        before = signal.signal(signal.SIGUSR1, one.stop)
        timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGUSR1))
        timer.start()
        result = one.run()
        timer.join()
        signal.signal(signal.SIGUSR1, before)
    assert outcomes(result) == {"unanswered": 1}


# -- at a rate


def stalling(seconds: float) -> Act:
    """Return what answers at once, but for one time in the middle."""
    number = itertools.count(1)

    def act(sock: socket.socket) -> None:
        read_line(sock)
        if next(number) == 20:
            pause(seconds)
        sock.sendall(b"pong\n")

    return act


def test_stall_counts_for_all_who_fell_due() -> None:
    """Requests that fall due while a server stalls wait, and their time says so."""
    with serving(stalling(0.5), at_once=1) as server:
        result = load(server.address, PING, connections=0, rate=100.0, seconds=0.9)
    with serving(stalling(0.0), at_once=1) as server:
        spared = load(server.address, PING, connections=0, rate=100.0, seconds=0.9)
    assert outcomes(result) == outcomes(spared) == {"ok": 90}
    ordered = sorted(result.latencies)
    assert 30 <= sum(latency > 0.1 for latency in ordered) <= 80
    assert 0.4 < ordered[-1] < 2.0
    assert percentile(ordered, 0.99) > 0.3
    assert percentile(ordered, 0.99) > percentile(sorted(spared.latencies), 0.99)


def test_closed_loop_is_spared_the_stall() -> None:
    """Without a rate one stall is one slow answer, which is why there is a rate."""
    with serving(stalling(0.3), at_once=1) as server:
        result = load(server.address, PING, connections=100)
    assert sum(latency > 0.2 for latency in result.latencies) == 1


def test_rate_is_kept() -> None:
    """With a quick server as many requests are made as fall due."""
    result = against(answer_all, connections=0, concurrency=8, rate=200.0, seconds=0.5)
    assert outcomes(result) == {"ok": 100}


def test_rate_holds_on_kept_connections() -> None:
    """A kept connection that is free takes what falls due next."""
    with serving(answer_all) as server:
        result = load(
            server.address, PING, connections=0, concurrency=8, requests=0, rate=200.0, seconds=0.5
        )
    assert outcomes(result) == {"ok": 100}
    assert server.connections <= 8


def test_what_fell_due_before_the_end_is_begun_after_it() -> None:
    """A bound that keeps requests out does not make them disappear when the time is up."""

    def act(sock: socket.socket) -> None:
        read_line(sock)
        pause(0.05)
        sock.sendall(b"pong\n")

    result = against(act, connections=0, rate=100.0, seconds=0.1, patience=20.0)
    assert outcomes(result) == {"ok": 10}
    assert max(result.latencies) > 0.3


def test_what_cannot_begin_within_its_patience_is_unanswered() -> None:
    """A request that nobody had time for is no less a failure than one without an answer."""
    done = threading.Event()

    def act(sock: socket.socket) -> None:
        read_line(sock)
        done.wait(10)

    with serving(act) as server:
        result = load(server.address, PING, connections=0, rate=100.0, seconds=0.2, patience=0.3)
        done.set()
    assert set(outcomes(result)) == {"unanswered"}
    assert result.outcomes["unanswered"] == 20


# -- other sockets


def echo(sock: socket.socket, data: bytes, peer: object) -> None:
    """Send a datagram back."""
    sock.sendto(data, peer)  # type: ignore[call-overload]


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("requests", [1, 3])
def test_udp(host: str, requests: int) -> None:
    """Datagrams are exchanged over IPv4 and IPv6."""
    if host == "::1":
        requires_ipv6()
    with serving_datagrams(echo, udp(host)) as address:
        result = load(
            address, DatagramExchange(b"x" * 8000, b"x" * 8000), connections=4, requests=requests
        )
    assert outcomes(result) == {"ok": 4 * requests}


def test_unixgram(tmp_path: Path) -> None:
    """Unix datagrams are exchanged, from an address that can be answered."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.bind(str(tmp_path / "s"))
    with serving_datagrams(echo, sock) as address:
        result = load(address, DatagramExchange(b"x", b"x"), connections=20, concurrency=3)
    assert outcomes(result) == {"ok": 20}


@pytest.mark.parametrize(("question", "answer"), [(b"", b""), (b"x", b""), (b"", b"x")])
def test_empty_datagrams(question: bytes, answer: bytes) -> None:
    """A datagram without a byte is one."""
    reply: Reply = lambda sock, data, peer: sock.sendto(answer, peer)  # type: ignore  # noqa: E731
    with serving_datagrams(reply, udp()) as address:
        assert outcomes(load(address, DatagramExchange(question, answer))) == {"ok": 1}


def test_lost_datagram_is_unanswered() -> None:
    """An answer that does not come is waited for no longer than the patience."""
    with serving_datagrams(lambda *_: None, udp()) as address:
        result = load(address, DatagramExchange(b"x", b"x"), patience=0.2)
    assert outcomes(result) == {"unanswered": 1}


@pytest.mark.parametrize("wrong", [b"", b"y", b"xx"])
def test_wrong_datagram_is_wrong_answer(wrong: bytes) -> None:
    """A datagram must be the right one, and whole."""
    reply: Reply = lambda sock, data, peer: sock.sendto(wrong, peer)  # type: ignore  # noqa: E731
    with serving_datagrams(reply, udp()) as address:
        result = load(address, DatagramExchange(b"x", b"x"))
    assert outcomes(result) == {"wrong answer": 1}


def test_second_datagram_is_wrong_answer() -> None:
    """An answer that comes twice is one too many for a client that is still there."""

    def twice(sock: socket.socket, data: bytes, peer: object) -> None:
        echo(sock, data, peer)
        echo(sock, data, peer)

    with serving_datagrams(twice, udp()) as address:
        result = load(
            address, DatagramExchange(b"x", b"x"), requests=2, rate=4.0, seconds=0.4, connections=1
        )
    assert result.outcomes["wrong answer"] == 1


@pytest.mark.parametrize("scheme", ["udp", "unixgram"])
def test_datagram_to_nobody_is_refused(tmp_path: Path, scheme: str) -> None:
    """A datagram to a port or path that nobody has is refused."""
    with udp() as sock:
        address = name_of(sock) if scheme == "udp" else f"unixgram://{tmp_path}/none"
    assert outcomes(load(address, DatagramExchange(b"x", b"x"))) == {"refused": 1}


def test_datagram_too_long_is_complained_of() -> None:
    """What the kernel does not send is told as the kernel tells it."""
    with serving_datagrams(echo, udp()) as address:
        result = load(address, DatagramExchange(b"x" * 70_000, b"x"))
    assert outcomes(result) == {"other": 1}
    assert result.complaint == "Message too long"


def test_stream_steps_are_not_for_datagrams() -> None:
    """A conversation that reads a datagram as a stream is told that it cannot."""
    with serving_datagrams(echo, udp()) as address:
        result = load(address, Exchange(b"x", b"x"))
    assert "in datagrams yielded ReadExactly(size=1)" in result.script_error


def test_tcp_over_ipv6() -> None:
    """An IPv6 address is connected to."""
    requires_ipv6()
    listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
    with serving(answer_all, listener) as server:
        assert server.address.startswith("tcp://[::1]:")
        assert outcomes(load(server.address, PING, connections=5)) == {"ok": 5}


def test_unix(tmp_path: Path) -> None:
    """A Unix socket is connected to."""
    with serving(answer_all, listen_unix(tmp_path / "s")) as server:
        result = load(server.address, PING, connections=50, concurrency=4, requests=2)
    assert outcomes(result) == {"ok": 100}


def test_source_gives_ports_of_its_own() -> None:
    """Connections come from the address that was ordered."""
    peers: list[str] = []

    def act(sock: socket.socket) -> None:
        peers.append(sock.getpeername()[0])
        answer_all(sock)

    assert outcomes(against(act, source="127.3.4.5")) == {"ok": 1}
    assert peers == ["127.3.4.5"]
