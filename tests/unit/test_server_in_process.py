"""A server in this very process: for tests, notebooks and debuggers."""

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

import forkserve
from forkserve import Connection, Mode, Server, Service, SettingsError, StreamHandler
from forkserve.acceptor import accept_loop
from forkserve.errors import ListenError, TargetError

LOOPBACK = "tcp://127.0.0.1:0"

both_modes = pytest.mark.parametrize("mode", ["iterative", "thread"])


class Echo(StreamHandler):
    """Send back each line."""

    def handle(self) -> None:
        while True:
            with self.connection.idle():
                line = self.rfile.readline()
            if not line:
                return
            self.wfile.write(line)


def serve(handler: Any = Echo, *addresses: str, **options: Any) -> Server:
    """Return a server in this process."""
    return Server(handler, *(addresses or (LOOPBACK,)), in_process=True, **options)


def connect(address: str) -> socket.socket:
    """Return a client."""
    if address.startswith("unix://"):
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(5)
        client.connect(address.removeprefix("unix://"))
        return client
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    return socket.create_connection((host.strip("[]"), int(port)), 5)


def ask(client: socket.socket, line: bytes = b"hello\n") -> bytes:
    """Return the answer to a line."""
    client.sendall(line)
    return client.recv(99)


class Busy:
    """A handler that says that it has begun and does not end before its peer does."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.ended = threading.Event()

    def __call__(self, connection: Connection) -> None:
        self.begun.set()
        while connection.recv():
            pass
        self.ended.set()


@contextmanager
def running(server: Server) -> Iterator[threading.Thread]:
    """Run a server in a thread of the test's, and see that it ends."""
    is_ready = threading.Event()
    thread = threading.Thread(target=server.run, args=[is_ready.set])
    thread.start()
    assert is_ready.wait(5)
    try:
        yield thread
    finally:
        server.stop()
        thread.join(5)
    assert not thread.is_alive()


# -- the with block


@both_modes
def test_a_server_for_a_block(mode: str) -> None:
    """In the block it serves, at the addresses it shows; after it nobody listens there."""
    with serve(mode=mode) as server:
        (address,) = server.addresses
        with connect(address) as client:
            assert ask(client) == b"hello\n"
    with pytest.raises(ConnectionRefusedError):
        connect(address)


@both_modes
def test_several_addresses(mode: str, tmp_path: Path) -> None:
    """Each address is served, in the order in which they were given."""
    with serve(Echo, LOOPBACK, f"unix://{tmp_path}/s", mode=mode) as server:
        assert server.addresses[1] == f"unix://{tmp_path}/s"
        for address in server.addresses:
            with connect(address) as client:
                assert ask(client) == b"hello\n"
    assert os.listdir(tmp_path) == []


@both_modes
def test_a_handler_that_raises(mode: str, caplog: pytest.LogCaptureFixture) -> None:
    """It ends its own connection, and the next one is served."""
    calls: list[Connection] = []

    def fails_once(connection: Connection) -> None:
        calls.append(connection)
        if len(calls) == 1:
            raise KeyboardInterrupt
        connection.send_all(b"served")

    with serve(fails_once, mode=mode) as server:
        with connect(server.addresses[0]) as client:
            assert client.recv(9) == b""
        with connect(server.addresses[0]) as client:
            assert client.recv(9) == b"served"
    assert "raised KeyboardInterrupt" in caplog.text


def test_an_exception_in_the_block() -> None:
    """It passes, and the server is stopped all the same."""
    server = serve()
    with pytest.raises(ZeroDivisionError), server, connect(server.addresses[0]) as client:
        raise ZeroDivisionError(ask(client))
    with pytest.raises(ConnectionRefusedError):
        connect(server.addresses[0])


@pytest.mark.parametrize("repetition", range(20))
def test_a_block_in_which_nothing_happens(repetition: int) -> None:
    """A server may be stopped before its first thread has begun."""
    with serve(mode="thread"):
        pass


# -- modes


def test_threads_serve_at_the_same_time() -> None:
    """Without a mode a server in this process has threads: a debugger holds up one connection."""
    with serve() as server, ExitStack() as clients:
        for _ in range(8):
            client = clients.enter_context(connect(server.addresses[0]))
            assert ask(client) == b"hello\n"


def test_one_at_a_time() -> None:
    """In iterative mode everybody waits for the one who is served."""
    with serve(mode=Mode.ITERATIVE) as server:
        first, second = connect(server.addresses[0]), connect(server.addresses[0])
        assert ask(first) == b"hello\n"
        second.sendall(b"hello\n")
        second.settimeout(0.05)
        with pytest.raises(TimeoutError):
            second.recv(9)
        first.close()
        second.settimeout(5)
        assert second.recv(9) == b"hello\n"
        second.close()


def test_a_bound_on_threads() -> None:
    """With one thread connections are served one after another."""
    with serve(mode="thread", threads=1) as server:
        first, second = connect(server.addresses[0]), connect(server.addresses[0])
        assert ask(first) == b"hello\n"
        second.sendall(b"hello\n")
        first.close()
        assert second.recv(9) == b"hello\n"
        second.close()


# -- stopping


@both_modes
def test_a_stop_ends_an_idle_connection_at_once(mode: str) -> None:
    """Nothing is lost there, so nobody waits for it."""
    server = serve(mode=mode)
    server.start()
    with connect(server.addresses[0]) as client:
        assert ask(client) == b"hello\n"
        before = monotonic()
        server.stop()
        assert monotonic() - before < 2
        assert client.recv(9) == b""


@both_modes
def test_a_stop_interrupts_the_others_at_the_timeout(mode: str) -> None:
    """What runs may finish within the timeout, and then ends."""
    busy = Busy()
    server = serve(busy, mode=mode)
    server.start()
    with connect(server.addresses[0]):
        assert busy.begun.wait(5)
        before = monotonic()
        server.stop(timeout=0.1)
        assert 0.1 <= monotonic() - before < 2
    assert busy.ended.is_set()


def test_a_stop_without_a_timeout_has_the_drain_timeout() -> None:
    """The end of a with block waits no longer for a client than any other server."""
    busy = Busy()
    with serve(busy, drain_timeout=0.1) as server:
        client = connect(server.addresses[0])
        assert busy.begun.wait(5)
    assert client.recv(9) == b""
    client.close()


@both_modes
def test_what_runs_may_finish(mode: str) -> None:
    """A stop waits for a handler that comes to its end in time."""
    is_asked = threading.Event()

    def slow(connection: Connection) -> None:
        connection.recv_exactly(1)
        is_asked.set()
        assert connection.recv_exactly(1)
        connection.send_all(b"finished")

    server = serve(slow, mode=mode)
    server.start()
    with connect(server.addresses[0]) as client:
        client.sendall(b"1")
        assert is_asked.wait(5)
        stopping = threading.Thread(target=server.stop)
        stopping.start()
        client.sendall(b"2")
        assert client.recv(9) == b"finished"
    stopping.join(5)
    assert not stopping.is_alive()


def test_a_handler_sees_the_stop() -> None:
    """`server.stopping` tells a handler that the end is near."""
    seen: list[bool] = []
    busy = Busy()

    def look(connection: Connection) -> None:
        seen.append(connection.listener.server.stopping)
        busy(connection)
        seen.append(connection.listener.server.stopping)

    server = serve(look)
    server.start()
    with connect(server.addresses[0]):
        assert busy.begun.wait(5)
        server.stop(timeout=0.01)
    assert seen == [False, True]


@both_modes
def test_a_handler_stops_the_server(mode: str) -> None:
    """A handler may ask for the end of the server it runs in, which waits for the handler."""

    class Last(StreamHandler):
        def handle(self) -> None:
            view: Any = self.server
            view.shutdown()
            self.connection.send_all(b"bye")

    server = serve(Last, mode=mode)
    with running(server), connect(server.addresses[0]) as client:
        assert client.recv(9) == b"bye"
        client.close()


def test_start_and_stop_from_different_threads() -> None:
    """Neither need be called in the main thread."""
    server = serve()
    starting = threading.Thread(target=server.start)
    starting.start()
    starting.join(5)
    with connect(server.addresses[0]) as client:
        assert ask(client) == b"hello\n"
    stopping = threading.Thread(target=server.stop)
    stopping.start()
    stopping.join(5)
    with pytest.raises(ConnectionRefusedError):
        connect(server.addresses[0])


def test_stopping_twice() -> None:
    """A server that was stopped, or never started, can be stopped."""
    server = serve()
    server.stop()
    server.start()
    with connect(server.addresses[0]) as client:
        assert ask(client) == b"hello\n"
    server.stop()
    server.stop()


@both_modes
def test_a_second_start(mode: str) -> None:
    """A server that was stopped can be started again."""
    server = serve(mode=mode)
    for _ in range(2):
        with server, connect(server.addresses[0]) as client:
            assert ask(client) == b"hello\n"


# -- run()


@both_modes
def test_run_in_another_thread(mode: str) -> None:
    """run() serves in whatever thread it is called, until stop()."""
    server = serve(mode=mode)
    with running(server):
        with connect(server.addresses[0]) as client:
            assert ask(client) == b"hello\n"
        server.stop()


def test_a_stop_interrupts_what_run_serves() -> None:
    """stop() means the same for run(): it blocks until all has ended, interrupted if need be."""
    busy = Busy()
    server = serve(busy)
    with running(server), connect(server.addresses[0]):
        assert busy.begun.wait(5)
        server.stop(timeout=0.01)
        assert busy.ended.is_set()


@both_modes
def test_run_in_the_main_thread_until_a_signal(mode: str) -> None:
    """TERM ends it, and the handlers are what they were."""
    before = signal.getsignal(signal.SIGTERM)
    answers: list[bytes] = []

    def be_a_client() -> None:
        with connect(server.addresses[0]) as client:
            answers.append(ask(client))
        os.kill(os.getpid(), signal.SIGTERM)

    server = serve(mode=mode)
    client = threading.Thread(target=be_a_client)
    server.run(client.start)
    client.join(5)
    assert answers == [b"hello\n"]
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_second_signal_hurries() -> None:
    """Whoever asks twice does not want to wait."""
    busy = Busy()

    def be_a_client() -> None:
        with connect(server.addresses[0]) as client:
            busy.begun.wait(5)
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGINT)
            client.recv(9)

    server = serve(busy)
    client = threading.Thread(target=be_a_client)
    server.run(client.start)
    client.join(5)
    assert busy.ended.is_set()


def test_a_signal_gives_what_runs_the_drain_timeout() -> None:
    """After that what still runs is interrupted, as by stop() and as in workers."""
    busy = Busy()
    answers: list[bytes] = []

    def be_a_client() -> None:
        with connect(server.addresses[0]) as client:
            busy.begun.wait(5)
            os.kill(os.getpid(), signal.SIGTERM)
            client.settimeout(0.5)
            with suppress(TimeoutError):
                answers.append(client.recv(9))

    server = serve(busy, drain_timeout=0.02)
    client = threading.Thread(target=be_a_client)
    server.run(client.start)
    client.join(5)
    assert answers == [b""]


def test_run_says_where_it_listens(capfd: pytest.CaptureFixture[str]) -> None:
    """Without a function to call, each address is announced."""
    server = serve(strategy=Leaves())
    server.run()
    assert capfd.readouterr().err == f"forkserve: listening on {server.addresses[0]}\n"


@both_modes
def test_nothing_is_left_when_on_ready_raises(mode: str) -> None:
    """A failure of the caller's own is passed on, and nobody listens any more."""
    server = serve(mode=mode)

    def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        server.run(fail)
    with pytest.raises(ConnectionRefusedError):
        connect(server.addresses[0])


# -- what the user brings


class Leaves:
    """A strategy that serves nobody."""

    def serve(self, service: Service) -> None:
        """Leave at once."""


def test_a_strategy_of_the_users_own() -> None:
    """It decides who runs the accept loop."""
    used: list[Service] = []

    class Own:
        def serve(self, service: Service) -> None:
            used.append(service)
            door = service.make_door()
            accept_loop(door, service.make_lane(door.linger).dispatch)

    with serve(strategy=Own()) as server, connect(server.addresses[0]) as client:
        assert ask(client) == b"hello\n"
    assert len(used) == 1


def test_a_strategy_that_raises() -> None:
    """stop() says what ended it."""

    class Fails:
        def serve(self, service: Service) -> None:
            raise ZeroDivisionError

    server = serve(strategy=Fails())
    server.start()
    with pytest.raises(ZeroDivisionError):
        server.stop()
    with pytest.raises(ZeroDivisionError):
        serve(strategy=Fails()).run(lambda: None)


def test_a_dispatcher_of_the_users_own() -> None:
    """It decides what happens to one connection, with run_handler at hand."""
    dispatched: list[Connection] = []

    class Own:
        def __init__(self, run_handler: Callable[[Connection], None]) -> None:
            self.run_handler = run_handler

        def dispatch(self, connection: Connection) -> None:
            dispatched.append(connection)
            self.run_handler(connection)

    with (
        serve(mode="iterative", dispatcher=Own) as server,
        connect(server.addresses[0]) as client,
    ):
        assert ask(client) == b"hello\n"
    assert len(dispatched) == 1


# -- what is wrong


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"mode": "forking"}, "mode 'forking' is not one of iterative, thread, process, prefork"),
        ({"mode": "prefork"}, "prefork mode needs processes of its own"),
        ({"mode": Mode.PROCESS}, "process mode needs processes of its own"),
        ({"mode": "iterative", "threads": 2}, "--threads has no meaning in iterative mode"),
        ({"spare": 2}, "--spare has no meaning in thread mode"),
        ({"connections_per_child": 2}, "--connections-per-child has no meaning in thread mode"),
        ({"max_connections": 0}, "--max-connections 0"),
    ],
)
def test_wrong_settings(options: dict[str, Any], problem: str) -> None:
    """They are refused before anything is opened."""
    with pytest.raises(SettingsError, match=problem):
        serve(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"threads": 0},
        {"workers": 0, "mode": "thread"},
        {"drain_timeout": -1.0},
        {"boot_timeout": -1.0},
    ],
    ids=str,
)
def test_settings_out_of_range(options: dict[str, Any]) -> None:
    """What the command refuses is refused in a program."""
    with pytest.raises(SettingsError):
        serve(**options)


def test_a_wrong_address() -> None:
    """It is named."""
    with pytest.raises(SettingsError, match="address 'nowhere'"):
        serve(Echo, "nowhere")


def test_no_handler() -> None:
    """A target that is none is refused like the command does."""
    with pytest.raises(TargetError, match="no handler"):
        serve(object())


def test_an_address_in_use() -> None:
    """start() raises in the caller's thread, and nothing is left."""
    with serve() as server:
        with connect(server.addresses[0]) as client:
            assert ask(client) == b"hello\n"
        with pytest.raises(ListenError, match="Address already in use"):
            serve(Echo, LOOPBACK, server.addresses[0]).start()


def test_start_needs_in_process() -> None:
    """Workers of their own need run()."""
    with pytest.raises(SettingsError, match="in_process=True"):
        Server(Echo, LOOPBACK).start()


def test_nothing_is_opened_by_the_constructor(tmp_path: Path) -> None:
    """A server that is only made holds nothing."""
    server = forkserve.Server(Echo, f"unix://{tmp_path}/s")
    assert server.addresses == []
    assert os.listdir(tmp_path) == []
