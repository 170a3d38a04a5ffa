"""Keep workers alive, and see them out: the parent of everything that serves."""

import os
import signal
from collections.abc import Callable, Sequence
from functools import partial
from time import monotonic
from types import FrameType
from typing import NamedTuple

from forkserve import signals
from forkserve.binding import AnyListener
from forkserve.endpoint import LISTENER_DIED, ListenerDied
from forkserve.errors import BootError
from forkserve.log import log
from forkserve.process.fork import flush, fork
from forkserve.process.group import Group
from forkserve.process.phase import Phase
from forkserve.process.policy import (
    FORK_RETRY,
    LeaderView,
    Plan,
    SlotView,
    WorkerView,
    decide,
    next_spawn,
)
from forkserve.process.reaper import collect, wait_for
from forkserve.process.worker import Worker
from forkserve.service import Service
from forkserve.strategies import Strategy
from forkserve.wait import Wait
from forkserve.wakeup import Wakeup


class Bounds(NamedTuple):
    """How many workers, and how long things may take, in seconds."""

    workers: int
    drain_timeout: float
    boot_timeout: float


class Leader:
    """Owns the listeners, forks the workers, and is the only one that the user signals.

    It starts no thread, serves nothing, and waits in one place; what it does next is decided by
    policy.decide.
    """

    def __init__(
        self,
        listeners: Sequence[AnyListener],
        service: Service,
        strategy: Strategy,
        bounds: Bounds,
    ) -> None:
        self._listeners = listeners
        self._service = service
        self._strategy = strategy
        self._bounds = bounds
        self._on_ready: Callable[[], None]
        self._private: Sequence[int] = ()
        self._phase = Phase.BOOTING
        self._workers: dict[int, WorkerView] = {}
        self._ready_pipes: dict[int, int] = {}
        self._groups: dict[int, Group] = {}  # of the workers
        self._left_behind: list[Group] = []  # of those that died and left somebody
        self._spawn_at = dict.fromkeys(range(bounds.workers), 0.0)
        self._failures = dict.fromkeys(range(bounds.workers), 0)
        self._last_spawn = 0.0
        self._drain_until: float | None = None
        self._failure: Exception | None = None
        self._is_child_dead = False
        self._asked: list[int] = []

    def run(
        self, mask: signals.Mask, on_ready: Callable[[], None], private: Sequence[int] = ()
    ) -> None:
        """Serve until TERM, INT or QUIT; blocks, in the main thread.

        Takes over with signals held back, lets them through by mask once it handles them, and
        holds them back again at the end. Calls on_ready when every first worker is ready. The
        private descriptors are of no use to a worker, and closed there.

        Raises BootError if the first workers do not come up, ListenerDied if an address is lost.
        """
        self._on_ready, self._private = on_ready, private
        handlers: dict[int, signals.Handler] = {}
        for number in (*signals.ENDING, *signals.REQUESTS):
            handlers[number] = self._on_request
        handlers[signal.SIGCHLD] = self._on_child
        self._wait = Wait()
        self._wakeup = Wakeup()
        self._lifeline, self._lifeline_end = os.pipe2(os.O_CLOEXEC)
        try:
            self._wait.watch(self._wakeup.reader, self._wakeup.drain)
            with signals.handled(handlers, self._wakeup.writer):
                signals.restore(mask)
                while not self._step():
                    pass
        finally:
            signals.block()
            self._leave_nothing()
        if self._failure is not None:
            raise self._failure

    def _leave_nothing(self) -> None:
        for pid in self._workers:  # only if something of ours has failed
            self._groups[pid].signal(signal.SIGKILL)
            os.kill(pid, signal.SIGKILL)
            wait_for(pid)
        for group in self._left_behind:
            group.signal(signal.SIGKILL, is_collected=True)
        for group in (*self._groups.values(), *self._left_behind):
            group.close()
        for pipe in self._ready_pipes.values():
            os.close(pipe)
        os.close(self._lifeline)
        os.close(self._lifeline_end)
        self._wakeup.close()
        self._wait.close()

    def _on_request(self, number: int, frame: FrameType | None) -> None:
        self._asked.append(number)

    def _on_child(self, number: int, frame: FrameType | None) -> None:
        self._is_child_dead = True

    # -- one turn: see what happened, decide, act, wait

    def _step(self) -> bool:
        while self._asked:
            self._take_request(signal.Signals(self._asked.pop(0)))
        if self._is_child_dead:
            self._is_child_dead = False
            for pid, code in collect(self._workers):
                self._bury(pid, code)
        phase = self._phase
        plan = decide(self._view(), monotonic())
        self._act(plan)
        if plan.is_over:
            return True
        if not self._asked and not self._is_child_dead and self._phase is phase:
            due = plan.wake_at
            self._wait.poll(None if due is None else max(0.0, due - monotonic()))
        return False

    def _view(self) -> LeaderView:
        taken = {worker.slot for worker in self._workers.values()}
        return LeaderView(
            phase=self._phase,
            workers=tuple(self._workers.values()),
            empty=tuple(SlotView(s, at) for s, at in self._spawn_at.items() if s not in taken),
            boot_timeout=self._bounds.boot_timeout,
            drain_until=self._drain_until,
        )

    def _act(self, plan: Plan) -> None:
        for slot in plan.spawn:
            if not self._phase.is_ending():  # the one before may have failed
                self._spawn(slot)
        for pid in plan.give_up_on:
            timeout = self._bounds.boot_timeout
            self._fail_boot(f"worker {pid} was not ready after {timeout:g} s (boot timeout)")
            self._signal(pid, Phase.KILLED, signal.SIGKILL)
        for pid in plan.stop:
            self._signal(pid, Phase.STOPPING, signal.SIGTERM, signals.INTERRUPT)
        if plan.hurry and self._phase is Phase.STOPPING:
            log.warning(
                "drain timeout of %g s: interrupting what %d worker(s) still serve",
                self._bounds.drain_timeout,
                len(plan.hurry),
            )
        for pid in plan.hurry:
            self._signal(pid, Phase.HURRYING, signal.SIGQUIT, signals.INTERRUPT)
        for pid in plan.kill:
            log.warning("worker %d did not leave when hurried: killed", pid)
            self._groups[pid].signal(signal.SIGKILL)
            self._signal(pid, Phase.KILLED, signal.SIGKILL)

    # -- what the user asks

    def _take_request(self, number: signal.Signals) -> None:
        if number in signals.REQUESTS:  # not built yet
            log.warning("%s is not supported", number.name)
        elif number is signal.SIGQUIT or self._phase.is_ending():
            self._hurry(number.name)
        else:
            self._stop(number.name)

    def _stop(self, why: str) -> None:
        timeout = self._bounds.drain_timeout
        log.info(
            "%s: stopping; waiting for %d worker(s), %g s at most (again: interrupt)",
            why,
            len(self._workers),
            timeout,
        )
        self._phase = Phase.STOPPING
        self._drain_until = monotonic() + timeout
        self._quiesce()

    def _hurry(self, why: str) -> None:
        if self._phase is Phase.HURRYING:
            return
        log.info("%s: interrupting what %d worker(s) still serve", why, len(self._workers))
        if self._phase is not Phase.STOPPING:
            self._quiesce()
        self._phase = Phase.HURRYING

    def _quiesce(self) -> None:
        """Leave the listeners to the workers: who finds a queue empty refuses whoever comes now."""
        for listener in self._listeners:
            listener.quiesce()
            if listener.is_owned:
                listener.close()

    # -- workers come and go

    def _spawn(self, slot: int) -> None:
        now = monotonic()
        self._last_spawn = now
        reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        worker = Worker(self._service, self._strategy, self._lifeline, writer)
        flush()
        try:
            pid = fork(worker.run, partial(self._leave_to, worker, reader))
        except OSError as error:
            os.close(reader)
            os.close(writer)
            self._spawn_at[slot] = now + FORK_RETRY
            if not self._fail_boot(f"cannot fork a worker: {error}"):
                log.error("cannot fork a worker: %s; trying again", error)
            return
        os.close(writer)
        self._groups[pid] = Group(pid)
        self._workers[pid] = WorkerView(pid, slot, Phase.BOOTING, now)
        self._ready_pipes[pid] = reader
        self._wait.watch(reader, partial(self._hear_ready, pid))

    def _leave_to(self, worker: Worker, reader: int) -> None:
        """In the child: give back what only the leader uses."""
        os.close(reader)
        self._close_in_child()
        worker.prepare()

    def _close_in_child(self) -> None:
        for pipe in self._ready_pipes.values():
            os.close(pipe)
        self._ready_pipes.clear()
        for group in (*self._groups.values(), *self._left_behind):
            group.close()
        for descriptor in self._private if self._phase is Phase.BOOTING else ():
            os.close(descriptor)
        os.close(self._lifeline_end)
        self._wakeup.close()
        self._wait.close()

    def _hear_ready(self, pid: int) -> None:
        """Read the pipe of a worker that boots: it has a byte, or has ended with the worker."""
        pipe = self._ready_pipes.pop(pid)
        try:
            is_ready = bool(os.read(pipe, 1))
        except BlockingIOError:
            is_ready = False  # it has ended, and something that it left behind has not
        self._wait.forget(pipe)
        os.close(pipe)
        worker = self._workers.get(pid)
        if not is_ready or worker is None or worker.phase is not Phase.BOOTING:
            return
        self._workers[pid] = worker._replace(phase=Phase.SERVING)
        self._failures[worker.slot] = 0
        if self._phase is not Phase.BOOTING:
            log.info("worker %d is ready in place of one that died", pid)
        elif not self._spawn_is_pending():
            self._phase = Phase.SERVING
            self._on_ready()

    def _spawn_is_pending(self) -> bool:
        serving = [w for w in self._workers.values() if w.phase is not Phase.BOOTING]
        return len(serving) < self._bounds.workers

    def _bury(self, pid: int, code: int) -> None:
        if pid in self._ready_pipes:
            self._hear_ready(pid)
        worker = self._workers.pop(pid)
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with {code}"
        group = self._groups.pop(pid)
        if self._phase.is_ending():
            group.signal(signal.SIGKILL)
            group.close()
            log.debug("worker %d %s", pid, how)
            return
        self._leave(group)
        was_ready = worker.phase is not Phase.BOOTING
        if not was_ready and self._fail_boot(f"worker {pid} {how} before it was ready"):
            return
        if code == LISTENER_DIED and not self._revive_listeners():
            return
        self._failures[worker.slot] += not was_ready
        now = monotonic()
        at = next_spawn(was_ready, self._failures[worker.slot], now, self._last_spawn)
        self._spawn_at[worker.slot] = self._last_spawn = at
        say = log.error if code else log.info
        say("worker %d %s; another one starts in %.1f s", pid, how, at - now)

    def _fail_boot(self, reason: str) -> bool:
        """Give up if nothing has served yet; once something has, forkserve never gives up."""
        if self._phase is not Phase.BOOTING:
            return False
        self._end_with(BootError(reason))
        return True

    def _revive_listeners(self) -> bool:
        for listener in self._listeners:
            if not listener.is_listening() and not listener.revive():
                self._end_with(ListenerDied(f"cannot listen on {listener.address.text} any more"))
                return False
        return True

    def _end_with(self, failure: Exception) -> None:
        self._failure = self._failure or failure
        self._phase = Phase.HURRYING

    # -- signals go to children we have not collected, so never to a stranger

    def _signal(self, pid: int, phase: Phase, *numbers: int) -> None:
        hurried_at = monotonic() if phase is Phase.HURRYING else 0.0
        self._workers[pid] = self._workers[pid]._replace(phase=phase, hurried_at=hurried_at)
        for number in numbers:
            os.kill(pid, number)

    def _leave(self, group: Group) -> None:
        """Ask what a dead worker has left to finish; keep in mind who is still there."""
        group.signal(signal.SIGTERM)
        groups = [*self._left_behind, group]
        self._left_behind = [one for one in groups if one.signal(0, is_collected=one is not group)]
        for one in groups:
            if one not in self._left_behind:
                one.close()
