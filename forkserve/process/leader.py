"""Keep workers alive, and see them out: the parent of everything that serves."""

import contextlib
import os
import signal
from collections.abc import Callable, Sequence
from functools import partial
from time import monotonic
from typing import NamedTuple

from forkserve import signals
from forkserve.binding import AnyListener, revive
from forkserve.endpoint import LISTENER_DIED, ListenerDied
from forkserve.errors import BootError
from forkserve.log import log
from forkserve.process.cause import OomCounter, describe, describe_stuck
from forkserve.process.fork import flush, fork
from forkserve.process.group import Group
from forkserve.process.hang import DUMP_PAUSE, Act, Kind, Timeouts, Verdict
from forkserve.process.inbox import Inbox, open_pipe
from forkserve.process.overseer import Overseer
from forkserve.process.phase import Phase
from forkserve.process.policy import (
    FORK_RETRY,
    ChildView,
    LeaderView,
    Plan,
    SlotView,
    decide,
    next_spawn,
)
from forkserve.process.reaper import collect, collect_stops, wait_for
from forkserve.process.worker import NO_THREAD, READY, Ties, Worker
from forkserve.scoreboard import Scoreboard, Slot
from forkserve.service import Service
from forkserve.strategies import Strategy

KILL_AFTER = 1.0  # from the hurry
PEERS_SHOWN = 3


class Bounds(NamedTuple):
    """How many workers, and how long things may take, in seconds."""

    workers: int
    boots_at_once: int
    drain_timeout: float
    boot_timeout: float
    timeouts: Timeouts = Timeouts()
    kind: Kind = Kind.INLINE


class Above(NamedTuple):
    """What is above a leader: nobody, or a supervisor."""

    on_ready: Callable[[], None]
    lifeline: int | None = None  # at its end when the supervisor is
    supervisor: int = 0  # its process id
    private: Sequence[int] = ()  # descriptors that are of no use to a worker
    say_leaving: Callable[[], None] = lambda: None


class Leader:
    """Forks the workers and keeps them alive, or replaces them.

    It starts no thread, serves nothing, and waits in one place; what it does next is decided by
    policy.decide, and who hangs by hang.Watch. Without a supervisor above it owns the listeners.
    """

    def __init__(
        self,
        listeners: Sequence[AnyListener],
        service: Service,
        strategy: Strategy,
        bounds: Bounds,
        board: Scoreboard,
    ) -> None:
        self._listeners = listeners
        self._service = service
        self._strategy = strategy
        self._bounds = bounds
        self._board = board
        self._above: Above
        self._phase = Phase.BOOTING
        self._workers: dict[int, ChildView] = {}
        self._slots: dict[int, Slot] = {}
        self._ready_pipes: dict[int, int] = {}
        self._groups: dict[int, Group] = {}  # of the workers
        self._left_behind: list[Group] = []  # of those that died and left somebody
        self._reasons: dict[int, str] = {}  # why we have killed them
        self._spawn_at = dict.fromkeys(range(bounds.workers), 0.0)
        self._failures = dict.fromkeys(range(bounds.workers), 0)
        self._last_spawn = 0.0
        self._is_degraded = False
        self._failure: Exception | None = None
        self._inbox: Inbox
        self._oom = OomCounter()
        self._overseer = Overseer(bounds.timeouts, bounds.kind)

    def run(self, mask: signals.Mask, above: Above) -> None:
        """Serve until TERM, INT or QUIT; blocks, in the main thread.

        Takes over with signals held back, lets them through by mask once it handles them, and
        holds them back again at the end. Says when every first worker is ready.

        Raises BootError if the first workers do not come up, ListenerDied if an address is lost.
        """
        self._above = above
        self._inbox = Inbox()
        self._lifeline, self._lifeline_end = os.pipe2(os.O_CLOEXEC)
        if above.lifeline is not None:
            self._inbox.wait.watch(above.lifeline, self._on_orphaned)
        requests = signals.REQUESTS if above.lifeline is None else signals.REQUESTS_BUT_SHOW
        try:
            with self._inbox.opened(mask, (*signals.ENDING, *requests)):
                while not self._step():
                    pass
                self._say_served()
        finally:
            self._leave_nothing()
        if self._failure is not None:
            raise self._failure

    def _say_served(self) -> None:
        """Say what the scoreboard has counted, once nobody adds to it any more."""
        served = [count for slot in self._board.workers if (count := slot.count_served())]
        if served:
            by_worker = " ".join(map(str, served))
            errors = self._board.count_errors()
            ended = ", ".join(f"{count} {kind.replace('_', ' ')}" for kind, count in errors.items())
            log.info("served %d in all, by worker %s; %s", sum(served), by_worker, ended)

    def _leave_nothing(self) -> None:
        for pid in self._workers:  # only if something of ours has failed
            self._groups[pid].signal(signal.SIGKILL)
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
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
        self._inbox.close()

    # -- one turn: see what happened, decide, act, wait

    def _step(self) -> bool:
        for number in self._inbox.requests():
            self._take_request(number)
        if self._inbox.take_child_change():
            for pid, code in collect(self._workers):
                self._bury(pid, code)
            self._overseer.note_stops(collect_stops(self._workers), monotonic())
        if self._left_behind:
            self._forget_gone()
        self._note_leaving(monotonic())
        plan = decide(self._view(), monotonic())
        self._act(plan)
        if not (plan.is_over or plan.has_acts() or self._oversee()):
            self._sleep(plan)
        return plan.is_over

    def _note_leaving(self, now: float) -> None:
        """See who was told to stop by somebody else: its place is empty, its time is bounded."""
        for pid, worker in self._workers.items():
            if self._slots[pid].is_leaving and worker.phase is Phase.SERVING:
                due = now + self._bounds.drain_timeout
                leaving = worker._replace(phase=Phase.STOPPING, due=due, is_outdated=True)
                self._workers[pid] = leaving
                if not (self._phase.is_ending() or worker.is_outdated):
                    log.warning("worker %d was told to stop, not by us: another one starts", pid)
                    self._spawn_at[worker.slot] = now

    def _sleep(self, plan: Plan) -> None:
        """Wait for what comes, or until it is time to decide or to look again."""
        overseer = self._overseer
        if overseer.wants_nap():
            overseer.begin_nap(self._board)
            if self._oversee():
                return
        if overseer.wake_at is not None:
            plan.wake_by(overseer.wake_at)
        self._inbox.wait_until(plan.wake_at)
        overseer.end_nap(self._board)

    def _view(self) -> LeaderView:
        taken = {worker.slot for worker in self._workers.values() if not worker.is_outdated}
        places = [worker.slot for worker in self._workers.values()]
        taken |= {place for place in places if places.count(place) > 1}  # one has to leave first
        return LeaderView(
            phase=self._phase,
            workers=tuple(self._workers.values()),
            empty=tuple(SlotView(s, at) for s, at in self._spawn_at.items() if s not in taken),
            boots_at_once=self._bounds.boots_at_once,
        )

    def _act(self, plan: Plan) -> None:
        for slot in plan.spawn:
            if not self._phase.is_ending():  # the one before may have failed
                self._spawn(slot)
        for pid in plan.give_up_on:
            self._give_up_on(pid)
        for pid in plan.stop:
            timeout = self._bounds.drain_timeout
            self._signal(pid, Phase.STOPPING, timeout, signal.SIGTERM, signals.INTERRUPT)
        late = sum(self._workers[pid].phase is Phase.STOPPING for pid in plan.hurry)
        if late and self._phase is not Phase.HURRYING:
            log.warning(
                "drain timeout of %g s: interrupting what %d worker(s) still serve",
                self._bounds.drain_timeout,
                late,
            )
        for pid in plan.hurry:
            self._signal(pid, Phase.HURRYING, KILL_AFTER, signal.SIGQUIT, signals.INTERRUPT)
        for pid in plan.kill:
            if pid not in self._reasons:
                log.warning("worker %d did not leave when hurried: killed", pid)
            self._kill(pid, "did not leave when hurried")

    def _oversee(self) -> bool:
        """Look for those who hang, and see to it; whether there were any."""
        watched = (Phase.SERVING, Phase.STOPPING)
        alive = {p: self._slots[p] for p, w in self._workers.items() if w.phase in watched}
        leaving = {pid for pid in alive if self._workers[pid].phase is Phase.STOPPING}
        verdicts = self._overseer.look(alive, leaving, monotonic())
        for verdict in verdicts:
            self._carry_out(verdict)
        return bool(verdicts)

    def _carry_out(self, verdict: Verdict) -> None:
        pid, reason = verdict.pid, verdict.reason
        if verdict.act is Act.INTERRUPT:
            log.warning("worker %d: %s: interrupting it", pid, reason)
            os.kill(pid, signals.INTERRUPT)
        elif verdict.act is Act.DUMP:
            self._have_stacks_written(pid, reason, signals.DUMP_STACKS)
        elif verdict.act is Act.REPLACE:
            self._have_stacks_written(pid, reason, signals.SHOW_STACKS)
            if self._workers[pid].phase is Phase.SERVING:
                log.warning("worker %d leaves when another one is ready in its place", pid)
                self._outdate(pid)
        else:
            log.error("worker %d: %s: killed", pid, reason)
            self._kill(pid, reason)

    def _have_stacks_written(self, pid: int, reason: str, number: signal.Signals) -> None:
        log.warning("worker %d: %s; its main thread is %s", pid, reason, describe_stuck(pid))
        os.kill(pid, number)

    # -- what the user asks, or the supervisor

    def _take_request(self, number: signal.Signals) -> None:
        is_supervised = self._above.lifeline is not None
        if number is signal.SIGHUP and not is_supervised:
            self._replace_all()
        elif number in signals.REQUESTS:
            if not is_supervised:
                log.warning("%s is not supported", number.name)
        elif number is signal.SIGINT and is_supervised:
            pass  # Ctrl-C reaches us too: the supervisor decides
        elif number is signal.SIGQUIT or (self._phase.is_ending() and not is_supervised):
            self._hurry(number.name)
        elif not self._phase.is_ending():
            self._stop(number.name)

    def _replace_all(self) -> None:
        if self._phase is not Phase.SERVING:
            return
        log.info("SIGHUP: replacing the workers; no new code, this program has it loaded")
        for pid in tuple(self._workers):
            self._outdate(pid)

    def _outdate(self, pid: int) -> None:
        """Let a worker go on until another one is ready in its place."""
        worker = self._workers[pid]
        if not worker.is_outdated:
            self._workers[pid] = worker._replace(is_outdated=True)
            self._spawn_at[worker.slot] = monotonic()

    def _renew(self, slot: int) -> None:
        """Have another worker in a place where one was killed beside its successor.

        The one may have been woken for a connection that it did not come to accept, and the kernel
        wakes nobody else for it; but who begins to wait sees what is in the queue.
        """
        for pid, worker in tuple(self._workers.items()):
            if worker.slot == slot and worker.phase is Phase.SERVING:
                log.info("worker %d is replaced too, lest a client wait for the killed one", pid)
                self._outdate(pid)

    def _on_orphaned(self) -> None:
        """Our supervisor is gone: its listeners are ours to empty, and we leave."""
        assert self._above.lifeline is not None
        self._inbox.wait.forget(self._above.lifeline)
        if not self._phase.is_ending():
            if os.getppid() != self._above.supervisor:  # else it has only given us up
                for listener in self._listeners:
                    listener.belong_to(os.getpid())
            self._stop("the supervisor is gone")

    def _stop(self, why: str) -> None:
        timeout = self._bounds.drain_timeout
        log.info(
            "%s: stopping; waiting for %d worker(s), %g s at most (again: interrupt)",
            why,
            len(self._workers),
            timeout,
        )
        self._phase = Phase.STOPPING
        self._above.say_leaving()
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

    def _spawn(self, number: int) -> None:
        now = monotonic()
        self._last_spawn = now
        try:
            reader, writer = open_pipe()
        except OSError as error:
            self._say_no_fork(number, error)
            return
        slot = self._board.take_slot()
        worker = Worker(
            self._service,
            self._strategy,
            slot,
            Ties(os.getpid(), self._lifeline, writer, self._bounds.drain_timeout),
        )
        flush()
        try:
            pid = fork(worker.run, partial(self._leave_to, worker, reader))
        except OSError as error:
            os.close(reader)
            os.close(writer)
            self._say_no_fork(number, error)
            return
        slot.pid = pid
        os.close(writer)
        self._groups[pid] = Group(pid)
        self._slots[pid] = slot
        due = now + self._bounds.boot_timeout
        self._workers[pid] = ChildView(pid, Phase.BOOTING, due, number)
        self._ready_pipes[pid] = reader
        self._inbox.wait.watch(reader, partial(self._hear_ready, pid))

    def _say_no_fork(self, number: int, error: OSError) -> None:
        self._spawn_at[number] = monotonic() + FORK_RETRY
        if not self._fail_boot(f"cannot fork a worker: {error}"):
            self._say_degraded(f"cannot fork a worker: {error}; trying again")

    def _say_degraded(self, why: str) -> None:
        if not self._is_degraded:
            self._is_degraded = True
            log.warning("degraded %d/%d: %s", self._count_serving(), self._bounds.workers, why)

    def _count_serving(self) -> int:
        """Return how many places have a worker that serves."""
        return len({w.slot for w in self._workers.values() if w.phase is Phase.SERVING})

    def _leave_to(self, worker: Worker, reader: int) -> None:
        """In the child: give back what only the leader uses."""
        os.close(reader)
        for pipe in self._ready_pipes.values():
            os.close(pipe)
        self._ready_pipes.clear()
        for group in (*self._groups.values(), *self._left_behind):
            group.close()
        for descriptor in self._above.private if self._phase is Phase.BOOTING else ():
            os.close(descriptor)
        if self._above.lifeline is not None:
            os.close(self._above.lifeline)
        os.close(self._lifeline_end)
        self._inbox.close()
        worker.prepare()

    def _hear_ready(self, pid: int) -> None:
        """Read the pipe of a worker that boots: it has a byte, or has ended with the worker."""
        pipe = self._ready_pipes.pop(pid)
        try:
            said = os.read(pipe, 4096)
        except BlockingIOError:
            said = b""  # it has ended, and something that it left behind has not
        self._inbox.wait.forget(pipe)
        os.close(pipe)
        worker = self._workers.get(pid)
        if said and said != READY:
            self._reasons[pid] = said.decode(errors="replace")
        if said != READY or worker is None or worker.phase is not Phase.BOOTING:
            return
        self._workers[pid] = worker._replace(phase=Phase.SERVING, was_ready=True)
        self._failures[worker.slot] = 0
        count = self._count_serving()
        if self._phase is not Phase.BOOTING:
            log.info("worker %d is ready", pid)
            if self._is_degraded and count == self._bounds.workers:
                self._is_degraded = False
                log.info("full strength again: %d/%d", count, count)
        elif count == self._bounds.workers:
            self._phase = Phase.SERVING
            self._above.on_ready()

    def _give_up_on(self, pid: int) -> None:
        reason = f"was not ready after {self._bounds.boot_timeout:g} s (boot timeout)"
        self._have_stacks_written(pid, reason, signals.DUMP_STACKS)
        self._reasons[pid] = reason
        self._fail_boot(f"worker {pid} {reason}")
        self._signal(pid, Phase.HURRYING, DUMP_PAUSE)

    def _bury(self, pid: int, code: int) -> None:
        if pid in self._ready_pipes:
            self._hear_ready(pid)
        worker = self._workers.pop(pid)
        how = self._describe_end(pid, code, self._slots.pop(pid))
        reason = self._reasons.pop(pid, "")
        if reason:
            how += f" ({reason})"
        group = self._groups.pop(pid)
        if self._phase.is_ending():
            group.signal(signal.SIGKILL)
            group.close()
            log.debug("worker %d %s", pid, how)
            return
        self._leave(group)
        if worker.is_outdated:
            log.info("worker %d, which was replaced, %s", pid, how)
            if code < 0:
                self._renew(worker.slot)
            return
        was_ready = worker.was_ready
        if not was_ready and self._fail_boot(f"worker {pid} {how} before it was ready"):
            return
        if code == LISTENER_DIED and not self._revive_listeners():
            return
        if code == NO_THREAD:
            self._spawn_at[worker.slot] = monotonic() + FORK_RETRY
            self._say_degraded(f"worker {pid} {how}; trying again")
            return
        self._failures[worker.slot] += not was_ready
        now = monotonic()
        at = next_spawn(was_ready, self._failures[worker.slot], now, self._last_spawn)
        self._spawn_at[worker.slot] = self._last_spawn = at
        say = log.error if code else log.info
        say("worker %d %s; another one starts in %.1f s", pid, how, at - now)
        if not was_ready:
            self._say_degraded("a worker died before it was ready")

    def _describe_end(self, pid: int, code: int, slot: Slot) -> str:
        how = describe(code)
        if code == -signal.SIGKILL:
            if pid in self._reasons:
                how += " by us"
            elif self._oom.has_grown():
                how += " (out of memory: the cgroup's limit)"
        held = [f"{h.peer} for {monotonic() - h.began:.1f} s" for h in slot.held()]
        if self._bounds.kind is Kind.CHILDREN:
            held = []  # they go on in processes of their own
        if held:
            how += f" while serving {', '.join(held[:PEERS_SHOWN])}"
        if len(held) > PEERS_SHOWN:
            how += f" and {len(held) - PEERS_SHOWN} more"
        slot.forget_held()
        slot.pid = 0
        return how

    def _fail_boot(self, reason: str) -> bool:
        """Give up if nothing has served yet; once something has, forkserve never gives up."""
        if self._phase is not Phase.BOOTING:
            return False
        self._end_with(BootError(reason))
        return True

    def _revive_listeners(self) -> bool:
        try:
            revive(self._listeners)
        except ListenerDied as error:
            self._end_with(error)
            return False
        return True

    def _end_with(self, failure: Exception) -> None:
        self._failure = self._failure or failure
        self._phase = Phase.HURRYING

    # -- signals go to children we have not collected, so never to a stranger

    def _signal(self, pid: int, phase: Phase, patience: float, *numbers: int) -> None:
        due = monotonic() + patience
        self._workers[pid] = self._workers[pid]._replace(phase=phase, due=due)
        for number in numbers:
            os.kill(pid, number)

    def _kill(self, pid: int, reason: str) -> None:
        self._reasons.setdefault(pid, reason)
        if self._phase.is_ending():
            self._groups[pid].signal(signal.SIGKILL)
        self._signal(pid, Phase.KILLED, 0.0, signal.SIGKILL)

    def _leave(self, group: Group) -> None:
        """Ask what a dead worker has left to finish; keep in mind who is still there."""
        group.signal(signal.SIGTERM)
        if group.signal(0):
            self._left_behind.append(group)
        else:
            group.close()

    def _forget_gone(self) -> None:
        """Give back what reached those that have finished by now: nobody tells us when they do."""
        gone = [group for group in self._left_behind if not group.signal(0, is_collected=True)]
        for group in gone:
            self._left_behind.remove(group)
            group.close()
