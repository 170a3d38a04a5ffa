"""Signals are held back around a fork, and handled for the time of a block."""

import os
import select
import signal
from collections.abc import Iterator

import pytest

from forkserve import signals
from forkserve.wakeup import Wakeup


@pytest.fixture
def wakeup() -> Iterator[Wakeup]:
    """Return what a signal writes to."""
    wakeup = Wakeup()
    yield wakeup
    wakeup.close()


def test_a_signal_is_held_back_and_not_lost() -> None:
    """Between block() and restore() none is handled; it is afterwards."""
    got: list[int] = []
    before = signals.install({signal.SIGTERM: lambda number, frame: got.append(number)})
    mask = signals.block()
    signal.raise_signal(signal.SIGTERM)  # to this thread: others may let it through
    held = list(got)
    signals.restore(mask)
    signals.install(before)
    assert (held, got) == ([], [signal.SIGTERM])


@pytest.mark.parametrize(
    "number", ["TERM", "INT", "QUIT", "HUP", "USR1", "USR2", "TTIN", "TTOU", "CHLD", "URG"]
)
def test_every_signal_we_handle_is_held_back(number: str) -> None:
    """block() names them all."""
    mask = signals.block()
    held = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    signals.restore(mask)
    assert signal.Signals[f"SIG{number}"] in held


def test_restore_leaves_what_was_held_back_before() -> None:
    """A caller that holds a signal back itself still does afterwards."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    signals.restore(signals.block())
    held = signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert signal.SIGUSR1 in held
    assert signal.SIGTERM not in held


def test_a_handled_signal_wakes(wakeup: Wakeup) -> None:
    """In the block the handler is called and the descriptor written to."""
    got: list[int] = []
    handlers: dict[int, signals.Handler] = {signal.SIGUSR1: lambda number, _: got.append(number)}
    with signals.handled(handlers, wakeup.writer):
        os.kill(os.getpid(), signal.SIGUSR1)
        assert select.select([wakeup.reader], [], [], 5)[0]
    assert got == [signal.SIGUSR1]


def test_the_block_leaves_everything_as_it_was(wakeup: Wakeup) -> None:
    """Handlers and the wakeup descriptor are what they were, whatever the block raises."""
    theirs = Wakeup()
    descriptor = signal.set_wakeup_fd(theirs.writer)
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGUSR2)
    handlers: dict[int, signals.Handler] = dict.fromkeys([15, 12], signals._do_nothing)
    with pytest.raises(ZeroDivisionError), signals.handled(handlers, wakeup.writer):
        raise ZeroDivisionError
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGUSR2)) == before
    assert signal.set_wakeup_fd(descriptor) == theirs.writer
    theirs.close()


def test_install_returns_what_it_replaces() -> None:
    """Installing that again undoes it; nothing at all stands for the default."""
    before = signals.install({signal.SIGUSR1: signal.SIG_IGN})
    assert signals.install(before) == {signal.SIGUSR1: signal.SIG_IGN}
    assert signals.install({signal.SIGUSR1: None}) == before
    assert signals.install(before) == {signal.SIGUSR1: signal.SIG_DFL}


def test_the_interrupt_hurts_nobody() -> None:
    """A process without a handler for it does not notice (signal(7))."""
    assert signals.INTERRUPT == signal.SIGURG
    assert signal.getsignal(signals.INTERRUPT) == signal.SIG_DFL
    os.kill(os.getpid(), signals.INTERRUPT)
