"""A worker: one process that serves, under a leader that watches over it."""

import contextlib
import os
import signal
from time import monotonic
from types import FrameType
from typing import NamedTuple

from forkserve import signals, stacks
from forkserve.alarm import Due
from forkserve.endpoint import LISTENER_DIED, ListenerDied
from forkserve.errors import BootError, NoThread
from forkserve.log import log
from forkserve.process import libc
from forkserve.process.title import show
from forkserve.scoreboard import Slot
from forkserve.service import Service
from forkserve.strategies import Strategy

READY = b"\0"
REASON_SIZE = 1000
NO_THREAD = 76  # the exit status that tells a leader to try again as after a failed fork


class Ties(NamedTuple):
    """What binds a worker to its leader, whose process id comes first.

    The lifeline is a pipe that ends when the leader does, ``ready`` one to say so; without a
    leader a worker has so many seconds to finish.
    """

    leader: int
    lifeline: int
    ready: int
    drain_timeout: float


class Worker:
    """Serves until its leader says stop, or is gone."""

    def __init__(self, service: Service, strategy: Strategy, slot: Slot, ties: Ties) -> None:
        self._service = service
        self._strategy = strategy
        self._slot = slot
        self._ties = ties
        self._pid = 0

    def prepare(self) -> None:
        """Install this process's own handlers; called while signals are held back."""
        service = self._service
        self._pid = os.getpid()
        service.open(self._slot, self._ties.lifeline, is_watched=True)
        signals.install(
            {
                signal.SIGTERM: self._on_term,
                signal.SIGQUIT: self._on_quit,
                signal.SIGCHLD: self._on_child,
                signals.INTERRUPT: self._on_interrupt,
                signal.SIGALRM: self._on_alarm,
                signal.SIGINT: signal.SIG_IGN,  # Ctrl-C reaches us too: the leader decides
                **dict.fromkeys(signals.REQUESTS_BUT_SHOW, signal.SIG_IGN),
                signal.SIGHUP: self._on_orphaned,
            }
        )
        stacks.write_when_asked()
        signal.set_wakeup_fd(service.wakeup.writer, warn_on_full_buffer=False)

    def run(self) -> int:
        """Serve, and return the exit status."""
        os.setpgid(0, 0)  # so that the leader reaches what we leave behind if we are killed
        show("fs-worker", "forkserve: worker")
        libc.die_with_parent(self._ties.leader, signal.SIGHUP)
        service = self._service
        service.say_ready = self._say_ready
        try:
            service.hooks.start_worker()
        except BootError as error:
            log.error("%s", error, traceback=error.__cause__)
            os.write(self._ties.ready, str(error).encode(errors="replace")[:REASON_SIZE])
            return 1
        try:
            self._strategy.serve(service)
        except ListenerDied as error:
            log.error("%s", error)
            return LISTENER_DIED
        except NoThread as error:
            os.write(self._ties.ready, str(error).encode())
            return NO_THREAD
        finally:
            service.hooks.stop_worker()
        return 0

    def _say_ready(self) -> None:
        with contextlib.suppress(BrokenPipeError):  # our leader has died meanwhile
            os.write(self._ties.ready, READY)
        os.close(self._ties.ready)

    # -- handlers set flags; the wakeup descriptor ends the wait

    def _on_term(self, number: int, frame: FrameType | None) -> None:
        self._service.stop.request()
        if os.getpid() == self._pid:  # not in a connection's process
            self._slot.is_leaving = True
            if self._service.pulse is not None:
                self._service.pulse.ring()  # it may not be our leader that has asked

    def _on_quit(self, number: int, frame: FrameType | None) -> None:
        self._service.stop.hurry()

    def _on_child(self, number: int, frame: FrameType | None) -> None:
        self._service.child_died = True

    def _on_alarm(self, number: int, frame: FrameType | None) -> None:
        for what in self._service.alarm.take_due(monotonic()):
            if what is Due.DRAIN_TIMEOUT:
                self._service.alarm.make_final(1.0)
                self._service.stop.hurry()
        self._service.interrupt_as_asked()

    def _on_orphaned(self, number: int, frame: FrameType | None) -> None:
        """Nobody may be left to hurry us: do it ourselves."""
        if os.getppid() != self._ties.leader:
            self._service.alarm.set(Due.DRAIN_TIMEOUT, monotonic() + self._ties.drain_timeout)
            self._service.stop.retire()
            self._service.interrupt_as_asked()

    def _on_interrupt(self, number: int, frame: FrameType | None) -> None:
        self._service.interrupt_overdue(monotonic())
        self._service.interrupt_as_asked()
