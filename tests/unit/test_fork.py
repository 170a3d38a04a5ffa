"""How a process of ours is made, and how it leaves."""

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import pytest

from forkserve import signals
from forkserve.process.fork import flush, fork
from forkserve.wakeup import Wakeup


class Wild(BaseException):
    pass


def nothing() -> None:
    """Prepare nothing."""


def exit_code(child: Callable[[], int], prepare: Callable[[], None] = nothing) -> int:
    """Return how a child leaves; a signal's code is negative."""
    _, status = os.waitpid(fork(child, prepare), 0)
    return os.waitstatus_to_exitcode(status)


def said(child: Callable[[int], Any], prepare: Callable[[], None] = nothing) -> bytes:
    """Return what a child writes to a pipe before it leaves."""
    reader, writer = os.pipe()

    def act() -> int:
        child(writer)
        return 0

    pid = fork(act, prepare)
    os.close(writer)
    with open(reader, "rb") as pipe:
        everything = pipe.read()
    os.waitpid(pid, 0)
    return everything


def raising(error: BaseException) -> Callable[[], int]:
    """Return a child that raises."""

    def child() -> int:
        raise error

    return child


@pytest.mark.parametrize("code", [0, 1, 75, 255])
def test_a_child_leaves_by_what_it_returns(code: int) -> None:
    """The exit status is the child's return value."""
    assert exit_code(lambda: code) == code


@pytest.mark.parametrize(
    "error",
    [ValueError("no"), SystemExit(0), KeyboardInterrupt(), GeneratorExit(), Wild()],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("where", ["child", "prepare"])
def test_no_exception_reaches_the_parents_stack(
    where: str, error: BaseException, capfd: pytest.CaptureFixture[str]
) -> None:
    """Whatever a child raises, it ends with 1, and below fork() only the parent goes on (F26)."""
    parent = os.getpid()
    try:
        if where == "child":
            code = exit_code(raising(error))
        else:
            code = exit_code(lambda: 0, raising(error))  # type: ignore[arg-type]
    finally:
        if os.getpid() != parent:
            os._exit(99)
    assert code == 1


def test_a_child_runs_in_a_process_of_its_own() -> None:
    """fork() returns the number that the child knows itself by."""
    reader, writer = os.pipe()

    def child() -> int:
        os.write(writer, str(os.getpid()).encode())
        return 0

    pid = fork(child, nothing)
    os.waitpid(pid, 0)
    assert os.read(reader, 99) == str(pid).encode()
    os.close(reader)
    os.close(writer)


def test_prepare_comes_first() -> None:
    """The child prepares before it acts, both in the new process."""
    steps = [os.getpid()]

    def report(writer: int) -> None:
        os.write(writer, repr([step == os.getpid() for step in steps]).encode())

    assert said(report, lambda: steps.append(os.getpid())) == b"[False, True]"


def test_what_the_child_prints_is_written_once(tmp_path: Any) -> None:
    """Buffered text leaves with the child that printed it, and not from the parent too (F27)."""
    before = sys.stdout
    with open(tmp_path / "out", "w") as out:
        sys.stdout = out
        out.write("parent ")
        flush()
        codes = [exit_code(lambda: out.write("child ") and 0) for _ in range(3)]
        sys.stdout = before
    assert codes == [0, 0, 0]
    assert (tmp_path / "out").read_text() == "parent child child child "


@pytest.mark.parametrize("stream", [None, "closed"])
def test_flushing_what_is_not_there(stream: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program may have no standard output, or have closed it."""
    closed = open(os.devnull, "w")  # noqa: SIM115
    closed.close()
    monkeypatch.setattr("sys.stdout", stream and closed)
    flush()


def test_a_signal_waits_until_the_child_has_its_own_handlers() -> None:
    """What arrives before prepare() is done is handled by what prepare() installs (F25)."""
    mine: list[int] = []
    before = signals.install({signal.SIGTERM: lambda number, frame: mine.append(number)})
    childs: list[int] = []

    def prepare() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        signals.install({signal.SIGTERM: lambda number, frame: childs.append(number)})

    report = said(lambda writer: os.write(writer, repr((mine, childs)).encode()), prepare)
    signals.install(before)
    assert report == b"([], [15])"
    assert mine == []


def test_the_child_does_not_ring_for_its_parent() -> None:
    """A signal to the child wakes no wait of the parent's (F25)."""
    wakeup = Wakeup()
    before = signal.set_wakeup_fd(wakeup.writer)
    handlers = signals.install({signal.SIGTERM: lambda number, frame: None})

    def child() -> int:
        os.kill(os.getpid(), signal.SIGTERM)
        return 0

    code = exit_code(child)
    signals.install(handlers)
    signal.set_wakeup_fd(before)
    assert code == 0
    with pytest.raises(BlockingIOError):
        os.read(wakeup.reader, 1)
    wakeup.close()


def test_signals_get_through_in_both_afterwards() -> None:
    """Neither parent nor child keeps anything held back."""

    def held() -> bytes:
        return repr(signal.pthread_sigmask(signal.SIG_BLOCK, [])).encode()

    assert said(lambda writer: os.write(writer, held())) == held()


def test_a_fork_that_fails_lets_signals_through(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without room for a process the caller gets the error, with nothing held back."""
    import resource

    if os.geteuid() == 0:
        pytest.skip("root may have as many processes as it likes (fork(2))")
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    limits = resource.getrlimit(resource.RLIMIT_NPROC)
    resource.setrlimit(resource.RLIMIT_NPROC, (0, limits[1]))
    try:
        with pytest.raises(BlockingIOError):
            fork(lambda: 0, nothing)
    finally:
        resource.setrlimit(resource.RLIMIT_NPROC, limits)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before
