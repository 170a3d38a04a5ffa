"""Keep a generation of the user's code serving, whatever happens to it."""

import gc
import os
import signal
from collections.abc import Callable, Sequence
from functools import partial
from time import monotonic
from typing import NamedTuple

from forkserve import signals
from forkserve.binding import AnyListener, revive
from forkserve.endpoint import LISTENER_DIED, ListenerDied
from forkserve.errors import BootError, ForkserveError, InternalError
from forkserve.log import log
from forkserve.process import libc
from forkserve.process.cause import describe
from forkserve.process.channel import Message, open_channel
from forkserve.process.fork import flush, fork
from forkserve.process.generations import SupervisorView, decide
from forkserve.process.hang import DUMP_PAUSE
from forkserve.process.home import Home, Superior
from forkserve.process.inbox import Inbox
from forkserve.process.phase import Phase
from forkserve.process.policy import FORK_RETRY, ChildView, Plan, back_off
from forkserve.process.reaper import collect_all, is_our_child, wait_for
from forkserve.process.title import show
from forkserve.process.watcher import Watcher
from forkserve.scoreboard import Scoreboard

FAULTS_A_SECOND = 10  # of its own that a supervisor does not outlive
KILL_AFTER = 2.0  # from the hurry: a leader needs a second of them for its workers
SLACK = 1.0  # a leader's own verdict comes first
LIVED_LONG = 10.0
REPLACEMENT_PAUSE = 0.5  # between leaders that die soon after they were ready


class LeaderFailed(ForkserveError):
    """The first generation could not be started, for a reason that it told."""

    def __init__(self, exit_status: int, message: str) -> None:
        super().__init__(message)
        self.exit_status = exit_status


class Bounds(NamedTuple):
    """How long things may take, in seconds, and how large the scoreboard is."""

    drain_timeout: float
    boot_timeout: float
    workers_boot_timeout: float  # for all of them
    workers: int
    lanes: int


class Generation:
    """A leader and what it has told us."""

    def __init__(self, number: int, home: Home, board: Scoreboard) -> None:
        self.number = number
        self.home = home
        self.board = board
        self.pid = 0
        self.phase = Phase.BOOTING
        self.due = 0.0
        self.ready_at = 0.0
        self.is_heard = False
        self.failure: tuple[int, str] | None = None
        self.channel, self.leaders_end = open_channel()

    def view(self) -> ChildView:
        """Return what a decision needs to know."""
        return ChildView(self.pid, self.phase, self.due, is_outdated=self.failure is not None)


class Supervisor:
    """Owns the listeners and the generations, and is the only one that the user signals.

    It never imports the user's code, starts no thread, serves nothing, and waits in one place;
    what it does next is decided by generations.decide.
    """

    def __init__(
        self,
        listeners: Sequence[AnyListener],
        lead: Callable[[Superior], int],
        bounds: Bounds,
        watched_folders: Sequence[str] = (),
    ) -> None:
        self._listeners = listeners
        self._lead = lead
        self._bounds = bounds
        self._watched_folders = watched_folders
        self._watcher: Watcher | None = None
        self._phase = Phase.BOOTING
        self._generations: dict[int, Generation] = {}  # by the leader's process id
        self._orphans: dict[int, ChildView] = {}
        self._home: list[AnyListener] = []  # what the serving generation has bound
        self._last_number = 0
        self._is_reload_wanted = False
        self._spawn_at = 0.0
        self._failures = 0
        self._replaced_at = 0.0
        self._failure: ForkserveError | None = None
        self._faults: list[float] = []  # when, in the last second
        self._inbox: Inbox
        self._on_ready: Callable[[Sequence[AnyListener]], None]
        self._private: Sequence[int] = ()

    def run(
        self,
        mask: signals.Mask,
        on_ready: Callable[[Sequence[AnyListener]], None],
        private: Sequence[int] = (),
    ) -> None:
        """Serve until TERM, INT or QUIT; blocks, in the main thread.

        Takes over with signals held back, lets them through by mask once it handles them, and
        holds them back again at the end. Calls on_ready when the first generation is ready; the
        private descriptors are closed in every other process.

        Raises BootError or LeaderFailed if the first generation does not come up, ListenerDied if
        an address is lost, InternalError after too many faults of our own.
        """
        self._on_ready, self._private = on_ready, private
        show("fs-supervisor", "forkserve: supervisor")
        libc.adopt_orphans()
        gc.freeze()  # the leaders share what is here as long as nobody collects it
        libc.trim_heap()
        self._inbox = Inbox()
        try:
            with self._inbox.opened(mask, (*signals.ENDING, *signals.REQUESTS)):
                if self._watched_folders:
                    self._watcher = Watcher(self._watched_folders, self._inbox.close)
                while not self._step_and_survive():
                    pass
        finally:
            self._leave_nothing()
        if self._failure is not None:
            raise self._failure

    def _leave_nothing(self) -> None:
        for pid in (*self._generations, *self._orphans):  # only if something of ours has failed
            os.kill(pid, signal.SIGKILL)
            wait_for(pid)
        for generation in self._generations.values():
            generation.channel.close()
        for listener in self._home:
            listener.close()
        if self._watcher is not None:
            self._watcher.end()
        self._inbox.close()

    # -- one turn: see what happened, decide, act, wait

    def _step_and_survive(self) -> bool:
        """Take a step, and outlive a fault of our own in it: nobody is above us to start another.

        Raises InternalError for one before anything has served, and for too many of them.
        """
        try:
            return self._step()
        except Exception as error:
            log.error("a fault in the supervisor", traceback=error)
            self._note_fault(error, monotonic())
        return False

    def _note_fault(self, error: Exception, now: float) -> None:
        self._inbox.note_child_change()  # some may have been left uncollected
        self._faults = [moment for moment in self._faults if now - moment < 1.0] + [now]
        if len(self._faults) < FAULTS_A_SECOND and self._phase is not Phase.BOOTING:
            return
        failure = InternalError(f"a fault in the supervisor: {type(error).__name__}: {error}")
        if self._phase is not Phase.SERVING:
            raise failure from error
        self._faults.clear()  # for the way out
        self._failure = failure
        self._end(Phase.STOPPING)

    def _step(self) -> bool:
        for number in self._inbox.requests():
            self._take_request(number)
        if self._inbox.take_child_change():
            for pid, code in collect_all():
                self._bury(pid, code)
        plan = decide(self._view(), monotonic())
        self._act(plan)
        if not (plan.is_over or plan.has_acts()):
            self._inbox.wait_until(plan.wake_at)
        return plan.is_over

    def _view(self) -> SupervisorView:
        return SupervisorView(
            phase=self._phase,
            leaders=tuple(one.view() for one in self._generations.values()),
            orphans=tuple(self._orphans.values()),
            is_reload_wanted=self._is_reload_wanted,
            spawn_at=self._spawn_at,
        )

    def _act(self, plan: Plan) -> None:
        for _ in plan.spawn:
            self._spawn()
        for pid in plan.give_up_on:
            self._give_up_on(self._generations[pid])
        for pid in plan.stop:
            self._send(pid, Phase.STOPPING, signal.SIGTERM, self._bounds.drain_timeout + SLACK)
        for pid in plan.hurry:
            self._send(pid, Phase.HURRYING, signal.SIGQUIT, KILL_AFTER)
        for pid in plan.kill:
            if pid not in self._generations or self._generations[pid].failure is None:
                log.warning("process %d did not leave when hurried: killed", pid)
            self._send(pid, Phase.KILLED, signal.SIGKILL, 0.0)

    def _send(self, pid: int, phase: Phase, number: int, patience: float) -> None:
        """Signal a child that we have not collected, so never a stranger."""
        due = monotonic() + patience
        if pid in self._orphans:
            self._orphans[pid] = self._orphans[pid]._replace(phase=phase, due=due)
            os.kill(pid, number)
            os.kill(pid, signals.INTERRUPT)
        else:
            self._generations[pid].phase, self._generations[pid].due = phase, due
            os.kill(pid, number)

    # -- what the user asks

    def _take_request(self, number: signal.Signals) -> None:
        if number is signal.SIGHUP:
            self._reload()
        elif number in signals.REQUESTS:
            log.warning("%s is not supported", number.name)
        elif number is signal.SIGQUIT or self._phase.is_ending():
            self._end(Phase.HURRYING)
        else:
            log.info(
                "%s: stopping, in %g s at most (again: interrupt)",
                number.name,
                self._bounds.drain_timeout,
            )
            self._end(Phase.STOPPING)

    def _reload(self) -> None:
        if self._phase is Phase.BOOTING:
            log.warning("SIGHUP: the first generation is not ready yet; nothing to load again")
        elif not self._phase.is_ending():
            self._is_reload_wanted, self._spawn_at = True, 0.0
            if self._is_booting():
                log.info("SIGHUP: another reload is under way; this one follows it")

    def _end(self, phase: Phase) -> None:
        if not self._phase.is_ending():
            for listener in (*self._listeners, *self._home):
                listener.quiesce()  # before any worker hears of it: it leaves the queue to nobody
                if listener.is_owned:
                    listener.close()
        self._phase = phase

    # -- generations come and go

    def _spawn(self) -> None:
        is_reload, self._is_reload_wanted = self._is_reload_wanted, False
        number = self._last_number + 1
        if is_reload:
            for listener in self._listeners:
                listener.put_back()
            log.info("SIGHUP: loading the code again, as generation %d", number)
        now = monotonic()
        flush()
        generation: Generation | None = None
        try:
            home = Home(self._home)
            board = Scoreboard(self._bounds.workers, self._bounds.lanes)
            generation = Generation(number, home, board)
            self._inbox.wait.watch(generation.channel.fileno(), partial(self._hear, generation))
            generation.is_heard = True
            parent = os.getpid()
            generation.pid = fork(
                partial(self._be_leader, generation), partial(self._leave_to, generation, parent)
            )
        except OSError as error:
            if generation is not None:
                self._ignore(generation)
                generation.channel.close()
                generation.leaders_end.close()
            self._spawn_at = now + FORK_RETRY
            self._say_no_spawn(error, is_reload=is_reload)
            return
        self._generations[generation.pid] = generation
        self._last_number = number
        generation.due = now + self._bounds.boot_timeout
        generation.leaders_end.close()

    def _say_no_spawn(self, error: OSError, *, is_reload: bool) -> None:
        if self._fail_boot(BootError(f"cannot fork a leader: {error}")):
            return
        serving = self._serving()
        if is_reload and serving:
            self._say_failed_reload(f"cannot fork a leader: {error}", serving)
        else:
            log.error("cannot fork a leader: %s; trying again", error)

    def _leave_to(self, generation: Generation, parent: int) -> None:
        """In the leader: give back what only the supervisor uses."""
        signals.take_over_at_boot()
        self._inbox.close()
        generation.channel.close()
        for other in self._generations.values():
            other.channel.close()
        if self._watcher is not None:
            self._watcher.forget()
        if self._phase is Phase.BOOTING:
            for descriptor in self._private:
                os.close(descriptor)
        libc.die_with_parent(parent, signal.SIGKILL)

    def _be_leader(self, generation: Generation) -> int:
        show("fs-leader", f"forkserve: leader of generation {generation.number}")
        self._generations.clear()
        return self._lead(
            Superior(
                self._listeners,
                generation.home,
                generation.leaders_end,
                generation.board,
            )
        )

    def _hear(self, generation: Generation) -> None:
        """Read what a leader has to say."""
        try:
            while message := generation.channel.receive():
                self._take_message(generation, message)
        except EOFError:
            self._ignore(generation)

    def _ignore(self, generation: Generation) -> None:
        """Wait no more for what a leader has to say."""
        if generation.is_heard:
            generation.is_heard = False
            self._inbox.wait.forget(generation.channel.fileno())

    def _take_message(self, generation: Generation, message: Message) -> None:
        if message.kind == "home":
            generation.home.take(message)
        elif message.kind == "loaded":
            generation.due = monotonic() + self._bounds.workers_boot_timeout + SLACK
        elif message.kind == "failed":
            status, _, reason = message.text.partition(" ")
            generation.failure = int(status), reason
        elif message.kind == "leaving":
            self._note_leaving(generation)
        elif generation.phase is Phase.BOOTING:
            self._hand_over_to(generation)

    def _note_leaving(self, generation: Generation) -> None:
        """See that a leader was told to stop by somebody else: another one is needed."""
        if generation.phase is Phase.SERVING and not self._phase.is_ending():
            generation.phase = Phase.STOPPING
            generation.due = monotonic() + self._bounds.drain_timeout + SLACK
            log.warning(
                "leader %d (generation %d) was told to stop, not by us: the next generation starts",
                generation.pid,
                generation.number,
            )

    def _hand_over_to(self, generation: Generation) -> None:
        before = self._serving()
        generation.phase, generation.ready_at = Phase.SERVING, monotonic()
        self._move_home(generation)
        if self._phase is Phase.BOOTING:
            self._phase = Phase.SERVING
            self._on_ready([*self._listeners, *self._home])
        elif before is not None:
            log.info(
                "generation %d is ready; generation %d finishes what it serves and leaves",
                generation.number,
                before.number,
            )
        else:
            log.info("generation %d is ready", generation.number)

    def _move_home(self, generation: Generation) -> None:
        """Keep what the new generation has bound; what it does without is emptied and closed."""
        for listener in self._home:
            if listener not in generation.home.used:
                listener.quiesce()
                listener.close()
        self._home = generation.home.used

    def _is_booting(self) -> bool:
        return any(one.phase is Phase.BOOTING for one in self._generations.values())

    def _serving(self) -> Generation | None:
        serving = [g for g in self._generations.values() if g.phase is Phase.SERVING]
        return serving[-1] if serving else None

    def _give_up_on(self, generation: Generation) -> None:
        reason = f"not ready after {self._bounds.boot_timeout:g} s (boot timeout)"
        generation.failure = BootError.exit_status, f"leader {generation.pid} was {reason}"
        log.error("leader %d was %s; this is where it is:", generation.pid, reason)
        self._send(generation.pid, Phase.HURRYING, signals.DUMP_STACKS, DUMP_PAUSE)

    def _bury(self, pid: int, code: int) -> None:
        if pid in self._orphans:
            del self._orphans[pid]
            return
        generation = self._generations.pop(pid, None)  # first: its number may be another's now
        if generation is None:
            if self._watcher is not None and self._watcher.pid == pid:
                log.error("the watcher of changed files %s: no reloads by it", describe(code))
                self._watcher.forget()
                self._watcher = None
            return  # else a stranger that was left to us
        self._hear(generation)
        self._ignore(generation)
        generation.channel.close()
        self._adopt_workers(generation)
        if self._phase.is_ending():
            log.debug("leader %d %s", pid, describe(code))
        elif not generation.ready_at:
            self._give_up_boot(generation, code)
        elif generation.phase is Phase.SERVING:
            self._replace(generation, code)
        else:
            log.info("generation %d has left", generation.number)

    def _adopt_workers(self, generation: Generation) -> None:
        """Take over the workers of a leader that has died before them."""
        for worker in generation.board.workers:
            if worker.pid and is_our_child(worker.pid):
                phase = Phase.STOPPING if generation.phase.is_ending() else Phase.SERVING
                self._orphans[worker.pid] = ChildView(worker.pid, phase, generation.due)

    def _give_up_boot(self, generation: Generation, code: int) -> None:
        generation.home.forget_new()
        status, reason = generation.failure or (
            BootError.exit_status,
            f"leader {generation.pid} {describe(code)} before it was ready",
        )
        if self._fail_boot(LeaderFailed(status, reason)):
            return
        serving = self._serving()
        if serving is not None:
            self._say_failed_reload(reason, serving)
            return
        self._failures += 1
        pause = back_off(self._failures)
        self._spawn_at = monotonic() + pause
        log.error("%s; nobody serves, trying again in %.1f s", reason, pause)

    def _say_failed_reload(self, reason: str, serving: Generation) -> None:
        log.error("reload failed: %s; generation %d goes on serving", reason, serving.number)

    def _replace(self, generation: Generation, code: int) -> None:
        now = monotonic()
        if code == LISTENER_DIED and not self._revive_listeners():
            return
        has_lived = now - generation.ready_at > LIVED_LONG
        self._spawn_at = now if has_lived else self._replaced_at + REPLACEMENT_PAUSE
        self._replaced_at, self._failures = max(now, self._spawn_at), 0
        is_booting = self._is_booting()
        say = log.warning if code == LISTENER_DIED else log.error
        say(
            "leader %d (generation %d) %s; %s generation %d from the code on disk",
            generation.pid,
            generation.number,
            "left to have a listener revived" if code == LISTENER_DIED else describe(code),
            "already starting" if is_booting else "starting",
            self._last_number + (not is_booting),
        )

    def _revive_listeners(self) -> bool:
        try:
            revive([*self._listeners, *self._home])
        except ListenerDied as error:
            self._end_with(error)
            return False
        return True

    def _fail_boot(self, failure: ForkserveError) -> bool:
        """Give up if nothing has served yet; once something has, forkserve never gives up."""
        if self._phase is not Phase.BOOTING:
            return False
        self._end_with(failure)
        return True

    def _end_with(self, failure: ForkserveError) -> None:
        self._failure = self._failure or failure
        self._end(Phase.HURRYING)
