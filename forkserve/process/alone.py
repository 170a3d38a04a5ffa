"""Serve in this one process, with no parent above it: for debuggers."""

import signal
from collections.abc import Callable
from time import monotonic
from types import FrameType

from forkserve import signals, stacks
from forkserve.alarm import Due
from forkserve.scoreboard import Slot
from forkserve.service import Service
from forkserve.strategies import Strategy


class Alone:
    """A worker that takes the user's signals itself, and owns the listeners."""

    def __init__(
        self, service: Service, strategy: Strategy, slot: Slot, drain_timeout: float
    ) -> None:
        self._service = service
        self._strategy = strategy
        self._slot = slot
        self._drain_timeout = drain_timeout

    def run(self, mask: signals.Mask, on_ready: Callable[[], None]) -> None:
        """Serve until TERM, INT or QUIT; blocks, in the main thread. Signals are held back."""
        service = self._service
        service.open(self._slot, owns_listeners=True)
        handlers: dict[int, signals.Handler] = dict.fromkeys(signals.ENDING, self._on_end)
        handlers |= dict.fromkeys(signals.REQUESTS, _do_nothing)
        handlers[signal.SIGALRM] = self._on_alarm
        handlers[signal.SIGCHLD] = self._on_child
        handlers[signals.INTERRUPT] = self._on_interrupt
        try:
            with signals.handled(handlers, service.wakeup.writer):
                stacks.write_when_asked()
                signals.restore(mask)
                service.say_ready = on_ready
                self._strategy.serve(service)
                service.hooks.stop_worker()
        finally:
            signals.block()
            service.alarm.clear()
            service.close()

    def _on_end(self, number: int, frame: FrameType | None) -> None:
        stop = self._service.stop
        if stop.is_set or number == signal.SIGQUIT:
            stop.hurry()
        else:
            stop.request()
            self._service.alarm.set(Due.DRAIN_TIMEOUT, monotonic() + self._drain_timeout)
        self._service.interrupt_as_asked()  # the handler may sit in recv in this very thread

    def _on_alarm(self, number: int, frame: FrameType | None) -> None:
        if Due.DRAIN_TIMEOUT in self._service.alarm.take_due(monotonic()):
            self._service.stop.hurry()
        self._service.interrupt_as_asked()

    def _on_child(self, number: int, frame: FrameType | None) -> None:
        self._service.child_died = True

    def _on_interrupt(self, number: int, frame: FrameType | None) -> None:
        self._service.interrupt_as_asked()


def _do_nothing(number: int, frame: FrameType | None) -> None:
    pass
