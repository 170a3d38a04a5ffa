"""What is said, and where it goes."""

import logging
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from forkserve.log import Log, write_line


@pytest.fixture
def command() -> Log:
    """Return a log as the command has it."""
    log = Log()
    log.to_standard_error("info")
    return log


@contextmanager
def other_stderr() -> Iterator[int]:
    """Let descriptor 2 be a pipe in the block, which gets its other end."""
    kept = os.dup(2)
    reader, writer = os.pipe()
    os.dup2(writer, 2)
    os.close(writer)
    try:
        yield reader
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(reader)


def test_a_library_logs(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Without a command everything goes to the logging module, which the program configures."""
    caplog.set_level(logging.DEBUG)
    log = Log()
    log.debug("one %d", 1)
    log.info("two")
    log.warning("three")
    log.access("four")
    log.error("five", traceback=ValueError("six"))
    assert [(r.name, r.levelname, r.getMessage()) for r in caplog.records] == [
        ("forkserve", "DEBUG", "one 1"),
        ("forkserve", "INFO", "two"),
        ("forkserve", "WARNING", "three"),
        ("forkserve", "INFO", "four"),
        ("forkserve", "ERROR", "five"),
    ]
    assert caplog.records[4].exc_info
    assert capfd.readouterr() == ("", "")


def test_a_command_writes_lines(command: Log, capfd: pytest.CaptureFixture[str]) -> None:
    """Moment, process and level come first, on standard error."""
    command.info("worker %d is ready", 7)
    out, err = capfd.readouterr()
    line = rf"\[\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d [+-]\d{{4}}\] \[{os.getpid()}\] \[INFO\] "
    assert re.fullmatch(line + r"worker 7 is ready\n", err)
    assert out == ""


@pytest.mark.parametrize(
    ("level", "kinds"),
    [
        ("debug", ["DEBUG", "INFO", "WARNING", "ERROR", "ACCESS"]),
        ("info", ["INFO", "WARNING", "ERROR", "ACCESS"]),
        ("warning", ["WARNING", "ERROR", "ACCESS"]),
        ("error", ["ERROR", "ACCESS"]),
    ],
)
def test_the_level_of_a_command(
    level: str, kinds: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    """What is below the level is not said; an access line always is, for it was asked for."""
    log = Log()
    log.to_standard_error(level)
    log.debug("x")
    log.info("x")
    log.warning("x")
    log.error("x")
    log.access("x")
    assert re.findall(r"\[([A-Z]+)\] x", capfd.readouterr().err) == kinds


def test_a_percent_sign_without_arguments(command: Log, capfd: pytest.CaptureFixture[str]) -> None:
    """A message is formatted only if there is something to put in."""
    command.info("100%")
    assert "] 100%\n" in capfd.readouterr().err


def test_an_error_shows_the_users_traceback(
    command: Log, capfd: pytest.CaptureFixture[str]
) -> None:
    """The line comes first, then the traceback, which ends with the exception."""
    try:
        raise ValueError("what the user sees")
    except ValueError as error:
        command.error("handler failed", traceback=error)
    lines = capfd.readouterr().err.splitlines()
    assert lines[0].endswith("[ERROR] handler failed")
    assert lines[1] == "Traceback (most recent call last):"
    assert lines[-1] == "ValueError: what the user sees"


def test_a_line_is_one_write() -> None:
    """Lines of several processes do not mix: each goes out whole, end included."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, other_stderr():
        os.dup2(theirs.fileno(), 2)
        write_line("one line")
        write_line("two")
        assert ours.recv(99) == b"one line\n"
        assert ours.recv(99) == b"two\n"


def test_what_cannot_be_encoded_is_shown_escaped() -> None:
    """A file name that is no text does not cost the line."""
    with other_stderr() as reader:
        write_line("\N{EURO SIGN} \udcff")
        assert os.read(reader, 99) == "\N{EURO SIGN} \\udcff\n".encode()


def test_nobody_reads_standard_error() -> None:
    """A broken pipe costs the line, and no more."""
    with other_stderr():
        reader, writer = os.pipe()
        os.dup2(writer, 2)
        os.close(writer)
        os.close(reader)
        write_line("to nobody")


def test_standard_error_is_closed() -> None:
    """A closed descriptor costs the line, and no more."""
    with other_stderr():
        os.close(2)
        write_line("to nothing")


def test_a_full_disk_costs_the_line_only(command: Log) -> None:
    """No space left is no reason to stop."""
    with other_stderr(), open("/dev/full", "w") as full:
        os.dup2(full.fileno(), 2)
        command.error("lost")


def test_a_program_without_sys_stderr(monkeypatch: pytest.MonkeyPatch) -> None:
    """Descriptor 2 is what counts."""
    with other_stderr() as reader:
        monkeypatch.setattr("sys.stderr", None)
        write_line("to descriptor 2")
        assert os.read(reader, 99) == b"to descriptor 2\n"


def test_a_program_that_closed_sys_stderr(monkeypatch: pytest.MonkeyPatch) -> None:
    """It costs at most the line."""
    with open(os.devnull, "w") as closed:
        monkeypatch.setattr("sys.stderr", closed)
    with other_stderr():
        write_line("perhaps")
