"""One connection, one handler, and nothing that leaves it but the log."""

import errno
import logging
from collections.abc import Callable
from typing import Any

import pytest

from forkserve.connection import Connection
from forkserve.errors import IncompleteRead
from forkserve.handler import StreamHandler, serve_with
from forkserve.run_handler import Inline, format_peer, make_run_handler
from forkserve.scoreboard import Slot
from forkserve.stop import Stop
from tests.unit.conftest import Pair
from tests.unit.fakes import take_slot

Raise = BaseException | type[BaseException]


class Wild(BaseException):
    pass


def run(
    connection: Connection,
    serve: Callable[[Connection], None],
    slot: Slot | None = None,
    **options: Any,
) -> Stop:
    """Run a handler on a connection, closing it in the end, and return the stop."""
    stop, slot = Stop(), slot or take_slot()
    lane = Inline(0, slot.record(0))
    make_run_handler(serve, Connection.close, stop, lane, slot, **options)(connection)
    return stop


def raising(error: Raise) -> Callable[[Connection], None]:
    """Return a handler that raises."""

    def serve(connection: Connection) -> None:
        raise error

    return serve


# -- the boundary


def test_a_connection_is_closed_after_its_handler(pair: Pair) -> None:
    """Whoever returns from handle() need not close."""
    connection, client = pair
    run(connection, lambda connection: connection.send_all(b"hello"))
    assert client.recv(9) == b"hello"
    assert client.recv(9) == b""
    assert connection.fileno() == -1


@pytest.mark.parametrize(
    "error",
    [
        ValueError("no"),
        SystemExit(3),
        KeyboardInterrupt(),
        GeneratorExit(),
        Wild(),
        RecursionError(),
        MemoryError(),
        BaseExceptionGroup("many", [Wild()]),
        OSError(errno.EIO, "Input/output error"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_a_handler_raises_ends_its_connection_only(error: Raise, pair: Pair) -> None:
    """No exception passes the boundary, and the connection is closed all the same."""
    connection, client = pair
    run(connection, raising(error))
    assert client.recv(9) == b""


@pytest.mark.parametrize(
    ("error", "level", "message"),
    [
        (IncompleteRead(b"ha", "a line"), "DEBUG", "ended early: IncompleteRead: "),
        (ConnectionResetError(104, "of a backend"), "ERROR", "raised ConnectionResetError"),
        (TimeoutError("of a backend"), "ERROR", "raised TimeoutError"),
        (EOFError("of a file"), "ERROR", "raised EOFError"),
        (SystemExit(3), "WARNING", "raised SystemExit(3): connection closed"),
        (ValueError("no"), "ERROR", "raised ValueError"),
        (KeyboardInterrupt(), "ERROR", "raised KeyboardInterrupt"),
        (Wild(), "ERROR", "raised Wild"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_what_is_logged(
    error: Raise, level: str, message: str, pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    """What a peer does is a developer's business, what a handler does an operator's."""
    caplog.set_level(logging.DEBUG)
    run(pair[0], raising(error))
    (record,) = caplog.records
    assert record.levelname == level
    assert message in record.getMessage()
    assert "a Unix socket" in record.getMessage()
    assert bool(record.exc_info) == (level == "ERROR")


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError(errno.ECONNRESET, "reset"),
        BrokenPipeError(errno.EPIPE, "broken"),
        TimeoutError(errno.ETIMEDOUT, "gone"),
        OSError(errno.EHOSTUNREACH, "no route"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_peer_that_is_gone_is_no_error(
    error: Raise, pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    """People leave all day long: that is worth a line to a developer only."""
    caplog.set_level(logging.DEBUG)
    connection, client = pair
    client.close()
    run(connection, raising(error))
    assert [record.levelname for record in caplog.records] == ["DEBUG"]


def test_a_timeout_that_the_handler_set_is_no_error(
    pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    """Its connection's time was up, as the handler wanted it."""
    caplog.set_level(logging.DEBUG)
    connection, _ = pair
    connection.settimeout(9)
    run(connection, raising(TimeoutError("timed out")))
    assert [record.levelname for record in caplog.records] == ["DEBUG"]


def test_a_handler_that_returns_is_not_logged(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    """No line for each connection unless one is asked for."""
    caplog.set_level(logging.DEBUG)
    assert not run(pair[0], lambda connection: None).is_set
    assert caplog.records == []


# -- what the scoreboard shows


def test_a_connection_shows_while_it_is_served(pair: Pair) -> None:
    """From the handler's first line to its last, and not afterwards, a parent sees the peer."""
    connection, _ = pair
    connection.address = ("::ffff:192.0.2.7", 4711, 0, 0)
    slot = take_slot()
    seen: list[str] = []
    run(connection, lambda _: seen.extend(held.peer for held in slot.held()), slot)
    assert seen == ["192.0.2.7:4711"]
    assert list(slot.held()) == []
    assert slot.count_served() == 1


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ValueError("no"), "raised"),
        (KeyboardInterrupt(), "raised"),
        (SystemExit(3), "raised"),
        (IncompleteRead(b"ha", "a line"), "lost"),
        (TimeoutError("timed out"), "timed_out"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_how_a_connection_ended_is_counted(error: Raise, kind: str, pair: Pair) -> None:
    """One that a handler gave up in any way was served, and is counted under its kind as well."""
    connection, slot = pair[0], take_slot()
    connection.settimeout(9)
    run(connection, raising(error), slot)
    counted = {name: number for name, number in slot.count_errors().items() if number}
    assert (counted, slot.count_served()) == ({kind: 1}, 1)
    assert list(slot.held()) == []


def test_out_of_memory_retires_the_worker(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    """A worker that ran out of memory leaves when it is done, and says so."""
    stop = run(pair[0], raising(MemoryError()))
    assert stop.is_retired
    assert not stop.is_hurried
    assert "out of memory: this worker leaves" in caplog.text


def test_an_exception_that_cannot_be_shown(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exit code that raises when it is shown ends its connection and nothing else."""
    from forkserve import run_handler
    from forkserve.log import Log

    class Unspeakable:
        def __repr__(self) -> str:
            raise ZeroDivisionError

    log = Log()
    log.to_standard_error("warning")
    monkeypatch.setattr(run_handler, "log", log)
    run(pair[0], raising(SystemExit(Unspeakable())))


# -- what was written


def test_what_was_written_leaves_with_the_end(pair: Pair) -> None:
    """A handler need not flush wfile."""
    connection, client = pair

    class Answer(StreamHandler):
        def handle(self) -> None:
            self.wfile.write(b"answer")

    run(connection, serve_with(Answer))
    assert client.recv(9) == b"answer"


def test_what_was_written_before_a_failure_is_dropped(pair: Pair) -> None:
    """Half an answer is not made to look like a whole one."""
    connection, client = pair

    class Half(StreamHandler):
        def handle(self) -> None:
            self.wfile.write(b"half")
            raise ValueError

    run(connection, serve_with(Half))
    assert client.recv(9) == b""


def test_the_last_flush_may_fail(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    """A peer that does not wait for the answer is no error."""
    connection, client = pair
    client.close()

    def answer(connection: Connection) -> None:
        connection.write(b"x")

    run(connection, answer)
    assert caplog.records == []
    assert connection.fileno() == -1


# -- setup, handle, finish


def test_the_steps_of_a_handler(pair: Pair) -> None:
    """setup(), handle() and finish() come in this order, on one instance for one connection."""
    steps: list[object] = []

    class Steps(StreamHandler):
        def setup(self) -> None:
            steps.append(("setup", id(self)))

        def handle(self) -> None:
            steps.append(("handle", id(self)))

        def finish(self) -> None:
            steps.append(("finish", id(self)))

    run(pair[0], serve_with(Steps))
    assert [step[0] for step in steps if isinstance(step, tuple)] == ["setup", "handle", "finish"]
    assert len({step[1] for step in steps if isinstance(step, tuple)}) == 1


@pytest.mark.parametrize(
    ("fails", "expected"),
    [("setup", ["setup"]), ("handle", ["setup", "handle", "finish"])],
)
def test_finish_follows_setup(
    fails: str, expected: list[str], pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    """finish() runs whatever handle() raises, but not without setup()."""
    steps: list[str] = []

    class Steps(StreamHandler):
        def step(self, name: str) -> None:
            steps.append(name)
            if name == fails:
                raise ValueError(name)

        def setup(self) -> None:
            self.step("setup")

        def handle(self) -> None:
            self.step("handle")

        def finish(self) -> None:
            self.step("finish")

    run(pair[0], serve_with(Steps))
    assert steps == expected
    assert "raised ValueError" in caplog.text


def test_finish_alone_is_called(pair: Pair) -> None:
    """A handler may override just one of the steps."""
    done = []

    class Finish(StreamHandler):
        def handle(self) -> None:
            pass

        def finish(self) -> None:
            done.append(self.connection)

    run(pair[0], serve_with(Finish))
    assert done == [pair[0]]


def test_a_handler_without_handle(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever forgets handle() is told which class lacks it."""
    run(pair[0], serve_with(StreamHandler))
    assert "StreamHandler has no handle()" in caplog.text


def test_what_a_handler_has(pair: Pair) -> None:
    """A socketserver user finds everything in its place, and room for attributes of his own."""
    handler = StreamHandler(pair[0])
    assert handler.request is handler.connection is pair[0]
    assert handler.server is pair[0].listener.server
    assert handler.client_address == ""
    assert handler.rfile is handler.rfile
    assert handler.wfile is handler.wfile
    handler.anything = 1  # type: ignore[attr-defined]


# -- the access log


def test_an_access_line_for_each_connection(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    """It names the peer and how long it was served, after the connection is done."""
    caplog.set_level(logging.INFO)
    pair[0].address = ("::ffff:10.0.0.1", 4711, 0, 0)
    run(pair[0], lambda connection: None, access_log=True)
    assert caplog.messages[0].startswith("10.0.0.1:4711 served in ")
    assert caplog.messages[0].endswith(" ms")


def test_an_access_line_for_a_failed_connection(
    pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    """A handler that raises was served too."""
    caplog.set_level(logging.INFO)
    run(pair[0], raising(ValueError()), access_log=True)
    assert [record.levelname for record in caplog.records] == ["ERROR", "INFO"]


def test_an_access_line_for_an_abstract_name(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    """What a client calls itself ends no more than its connection."""
    name: Any = b"\0abc"
    pair[0].address = name
    run(pair[0], lambda connection: None, access_log=True)


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        (("127.0.0.1", 80), "127.0.0.1:80"),
        (("::1", 80, 0, 0), "[::1]:80"),
        (("::ffff:127.0.0.1", 80, 0, 0), "127.0.0.1:80"),
        ("/run/client", "/run/client"),
        ("", "a Unix socket"),
    ],
)
def test_how_a_peer_is_shown(address: tuple[Any, ...] | str, shown: str) -> None:
    """As an address, or as what it is if it has none."""
    assert format_peer(address) == shown
