"""What a handler answers, and who ends the connection then, found by asking it."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from forkserve.bench import probe
from forkserve.bench.conversation import DatagramExchange, Ending, Exchange
from forkserve.bench.errors import BenchError
from forkserve.bench.probe import find_exchange

Serve = Callable[[socket.socket], None]


@contextlib.contextmanager
def serving(serve: Serve) -> Iterator[str]:
    """Serve one client after another in a thread until the block ends; give the address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        stop = threading.Event()

        def run() -> None:
            while True:
                client, _ = listener.accept()
                with client, contextlib.suppress(OSError):
                    client.settimeout(5)
                    if stop.is_set():
                        return
                    serve(client)

        thread = threading.Thread(target=run)
        thread.start()
        address = listener.getsockname()
        try:
            yield f"tcp://127.0.0.1:{address[1]}"
        finally:
            stop.set()
            socket.create_connection(address).close()
            thread.join()


def answering(*pieces: bytes) -> Serve:
    """Return what hears something, answers in pieces, and waits for the client's end."""

    def serve(client: socket.socket) -> None:
        client.recv(100)
        for piece in pieces:
            client.sendall(piece)
        client.recv(100)

    return serve


def refusal(serve: Serve, question: bytes = b"ask\n") -> str:
    """Return what is said of a server that cannot be measured so."""
    with serving(serve) as address, pytest.raises(BenchError) as error:
        find_exchange(address, question)
    return str(error.value)


def test_an_answer_on_a_connection_that_stays() -> None:
    """When nothing more comes the answer is whole, and the client is the one who ends."""
    with serving(answering(b"one\n", b"two\n")) as address:
        assert find_exchange(address, b"ask\n") == Exchange(b"ask\n", b"one\ntwo\n")


def test_an_answer_after_which_the_server_ends() -> None:
    """Its clients are to read to the end."""

    def serve(client: socket.socket) -> None:
        client.recv(100)
        client.sendall(b"bye\n")

    with serving(serve) as address:
        exchange = find_exchange(address, b"ask\n")
    assert exchange == Exchange(b"ask\n", b"bye\n", Ending.SERVER)
    assert not exchange.can_be_repeated


def test_an_answer_that_waits_for_the_clients_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has to hear everything first is told that it was everything."""
    monkeypatch.setattr(probe, "UNTIL_ENDING", 0.1)

    def serve(client: socket.socket) -> None:
        heard = b""
        while data := client.recv(100):
            heard += data
        client.sendall(heard.upper())

    with serving(serve) as address:
        assert find_exchange(address, b"ask\n") == Exchange(b"ask\n", b"ASK\n", Ending.BOTH)


def test_nothing_to_send_is_for_servers_that_speak_first() -> None:
    """With an empty question the greeting is the answer."""

    def serve(client: socket.socket) -> None:
        client.sendall(b"220 ready\n")
        client.recv(100)

    with serving(serve) as address:
        assert find_exchange(address, b"") == Exchange(b"", b"220 ready\n")


def test_a_server_that_speaks_first_wants_a_script() -> None:
    """What it says is shown, and what to do about it."""
    said = refusal(lambda client: client.sendall(b"220 ready\n"))
    assert said == (
        "the handler speaks first, it says '220 ready\\n': write a script for it: --send @script.py"
    )


def test_a_server_that_ends_before_it_is_asked() -> None:
    """That is neither a greeting nor an answer."""
    said = refusal(lambda client: None)
    assert said == "the handler ends the connection before it is asked anything"


def test_a_server_that_ends_without_an_answer() -> None:
    """The question is shown, since it may be the wrong one."""

    def serve(client: socket.socket) -> None:
        client.recv(100)

    said = refusal(serve)
    assert "ends the connection without an answer to 'ask\\n'" in said
    assert "--send" in said


def test_answers_that_differ_want_a_script() -> None:
    """Bytes cannot be compared then; where they differ is shown."""
    numbers = iter(range(10))

    def serve(client: socket.socket) -> None:
        client.recv(100)
        client.sendall(b"number %d\n" % next(numbers))

    said = refusal(serve)
    assert "differ from client to client" in said
    assert "byte 7 of the answer: expected '0\\n', got '1\\n'" in said
    assert "--send @script.py" in said


def test_no_answer_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wait for it ends, and how long it was is said."""
    monkeypatch.setattr(probe, "PATIENCE", 0.2)
    monkeypatch.setattr(probe, "UNTIL_ENDING", 0.1)
    release = threading.Event()

    def serve(client: socket.socket) -> None:
        client.recv(100)
        release.wait(5)

    with serving(serve) as address:
        with pytest.raises(BenchError, match=r"no answer to 'ask\\n' within 0.2 s"):
            find_exchange(address, b"ask\n")
        release.set()


def test_a_server_that_is_not_there() -> None:
    """The reason is the system's."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
    with pytest.raises(BenchError, match=f"asking {address}: Connection refused"):
        find_exchange(address, b"ask\n")


def test_a_datagram_and_its_answer() -> None:
    """One datagram there and one back is all there is to find out."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))

        def answer() -> None:
            for _ in range(probe.TRIES):
                data, peer = sock.recvfrom(100)
                sock.sendto(data.upper(), peer)

        thread = threading.Thread(target=answer)
        thread.start()
        exchange = find_exchange(f"udp://127.0.0.1:{sock.getsockname()[1]}", b"ask")
        thread.join()
    assert exchange == DatagramExchange(b"ask", b"ASK")


def test_a_datagram_without_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that only listens cannot be measured by its answers."""
    monkeypatch.setattr(probe, "PATIENCE", 0.1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        with pytest.raises(BenchError, match="no answer to the datagram 'ask'"):
            find_exchange(f"udp://127.0.0.1:{sock.getsockname()[1]}", b"ask")
