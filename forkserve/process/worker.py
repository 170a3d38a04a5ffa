"""A worker: one process that serves, under a leader that watches over it."""

import os
import signal
from types import FrameType

from forkserve import signals
from forkserve.endpoint import LISTENER_DIED, ListenerDied
from forkserve.log import log
from forkserve.service import Service
from forkserve.strategies import Strategy


class Worker:
    """Serves until its leader says stop, or is gone."""

    def __init__(self, service: Service, strategy: Strategy, lifeline: int, ready: int) -> None:
        self._service = service
        self._strategy = strategy
        self._lifeline = lifeline
        self._ready = ready

    def prepare(self) -> None:
        """Install this process's own handlers; called while signals are held back."""
        service = self._service
        service.open(self._lifeline)
        signals.install(
            {
                signal.SIGTERM: self._on_term,
                signal.SIGQUIT: self._on_quit,
                signal.SIGCHLD: self._on_child,
                signals.INTERRUPT: self._on_interrupt,
                signal.SIGINT: signal.SIG_IGN,  # Ctrl-C reaches us too: the leader decides
                **dict.fromkeys(signals.REQUESTS, signal.SIG_IGN),
            }
        )
        signal.set_wakeup_fd(service.wakeup.writer, warn_on_full_buffer=False)

    def run(self) -> int:
        """Serve, and return the exit status."""
        os.setpgid(0, 0)  # so that the leader reaches what we leave behind if we are killed
        os.write(self._ready, b"r")
        os.close(self._ready)
        try:
            self._strategy.serve(self._service)
        except ListenerDied as error:
            log.error("%s", error)
            return LISTENER_DIED
        return 0

    # -- handlers set flags; the wakeup descriptor ends the wait

    def _on_term(self, number: int, frame: FrameType | None) -> None:
        self._service.stop.request()

    def _on_quit(self, number: int, frame: FrameType | None) -> None:
        self._service.stop.hurry()

    def _on_child(self, number: int, frame: FrameType | None) -> None:
        self._service.child_died = True

    def _on_interrupt(self, number: int, frame: FrameType | None) -> None:
        self._service.interrupt_as_asked()
