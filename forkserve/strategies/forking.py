"""A process for each live connection: forked for it, forked ahead of it, or used again."""

import mmap
import os
import signal
from _socket import socket as Descriptor
from time import monotonic

from forkserve import signals
from forkserve.acceptor import accept_loop
from forkserve.alarm import Due
from forkserve.connection import close_quietly
from forkserve.datagram import Request
from forkserve.endpoint import LISTENER_DIED, ListenerDied
from forkserve.lingering import linger_here
from forkserve.log import log
from forkserve.process.cause import describe, describe_stuck
from forkserve.process.fork import fork
from forkserve.process.hang import Act, Kind, Sight, Timeouts, Watch
from forkserve.process.reaper import collect, collect_stops
from forkserve.service import Service
from forkserve.wakeup import Wakeup

BUSY, AT_DOOR = 0, 1
IDLE_CHILDREN = 8  # so many children may wait for their next connection as long as it takes,
CROWDED_PATIENCE = 1.0  # and any more of them for so many seconds
_STEPS = {  # what is sent, and what is said of it
    Act.INTERRUPT: (signals.INTERRUPT, "interrupting it"),
    Act.DUMP: (signals.DUMP_STACKS, "it is "),
    Act.KILL: (signal.SIGKILL, "killed"),
}
KILL_AFTER = 0.7  # the leader kills us a second after its hurry: our children must be gone


class Forking:
    """accept_loop here, a child for each connection.

    With spares or with children that serve again, children wait at the door themselves; then
    this process comes to it only while none of them is there.
    """

    def __init__(self, spare: int = 0, connections_per_child: int = 1) -> None:
        self._spare = spare
        self._connections_per_child = connections_per_child

    def serve(self, service: Service) -> None:
        """Serve until stopped; blocks. The children are this process's own."""
        Children(service, self._spare, self._connections_per_child).run()


class Children:
    """The connection children of one process."""

    def __init__(self, service: Service, spare: int, connections_per_child: int) -> None:
        self._service = service
        self._spare = spare
        self._connections_per_child = connections_per_child
        self._are_pooled = spare > 0 or connections_per_child > 1
        self._slots = mmap.mmap(-1, service.limit)  # a byte each, written by the child that has it
        self._free = list(range(service.limit - 1, -1, -1))  # the lowest is taken first
        self._pids: dict[int, int] = {}
        self._lifeline, self._lifeline_end = os.pipe2(os.O_CLOEXEC)
        self._forwarded: list[int] = []
        self._kill_at: float | None = None
        self._door = service.make_door()
        self._lane = service.make_lane(linger_here)  # used in the children that serve one
        self._not_for_children = [
            *service.descriptors(),
            self._lifeline,
            self._lifeline_end,
        ]
        timeouts = Timeouts(service.connection_timeout, service.liveness_timeout)
        self._watch = Watch(timeouts, Kind.INLINE)
        self._stopped_since: dict[int, float] = {}
        self._killed: dict[int, str] = {}  # by us, and why
        self._alarm_at: float | None = None
        service.attend = self._attend

    def run(self) -> None:
        """Serve until stopped, then see every child out."""
        self._service.say_ready()
        self._attend()
        accept_loop(self._door, self.dispatch)
        self._door.close()
        self._attend()
        while self._pids:
            due = None if self._kill_at is None else max(0.0, self._kill_at - monotonic())
            self._service.wait.poll(due)
            self._kill_when_due(monotonic())
        os.close(self._lifeline)
        os.close(self._lifeline_end)
        self._slots.close()

    def dispatch(self, request: Request) -> None:
        """Give the request to a new child; without room for one, end it and pause."""
        if self._service.child_died:
            self._collect()
        try:
            self._fork(request)
        except OSError as error:
            log.warning("cannot fork for a connection: %s; closed it", error)
            self._door.linger(request)
            self._door.pause(error)
        else:
            close_quietly(request)  # the child has its own
            self._count()

    # -- in the parent

    def _fork(self, request: Request | None) -> None:
        slot = self._free[-1]
        record = self._service.slot.record(slot)
        if self._are_pooled:
            self._slots[slot] = AT_DOOR if request is None else BUSY
            try:
                pid = fork(lambda: self._live_in_pool(slot, record, request), self._own_wakeup)
            except OSError:
                self._slots[slot] = BUSY  # nobody is there
                raise
        else:
            pid = fork(lambda: self._serve_one(record, request), self._own_nothing)
        self._pids[pid] = slot
        self._free.pop()
        if self._service.connection_timeout and self._alarm_at is None:
            self._set_alarm(monotonic() + self._service.connection_timeout)

    def _attend(self) -> None:
        """Whatever woke us: collect the dead, fork ahead, pass on a stop."""
        self._collect()
        if self._alarm_at is not None and monotonic() >= self._alarm_at:
            self._oversee(monotonic())
        stop = self._service.stop
        if stop.is_set:
            self._forward_stop()
            return
        try:
            most = self._service.limit - 1  # one place is for whoever we are just woken for
            while len(self._pids) < most and self._count_idle() < self._spare:
                self._fork(None)
        except OSError as error:
            self._door.pause(error)
        self._count()

    def _collect(self) -> None:
        may_be_a_stop, self._service.child_died = self._service.child_died, False
        for pid, code in collect(self._pids):
            may_be_a_stop = False
            slot = self._pids.pop(pid)
            self._stopped_since.pop(pid, None)
            self._slots[slot] = BUSY
            self._free.append(slot)
            if code == LISTENER_DIED:
                self._look_at_listeners()
            elif code:
                self._say_death(pid, code, slot)
        if may_be_a_stop:  # what else may SIGCHLD have told of
            self._note_stops()
        self._count()

    def _note_stops(self) -> None:
        """See who was stopped by SIGSTOP, and who goes on."""
        for pid, is_stopped in collect_stops(self._pids):
            self._stopped_since.pop(pid, None)
            if is_stopped and self._service.liveness_timeout:
                self._stopped_since[pid] = monotonic()
                self._oversee(monotonic())

    def _say_death(self, pid: int, code: int, slot: int) -> None:
        held, whom = self._service.slot.held_in(slot), ""
        if pid in self._killed:
            whom = f" by us ({self._killed.pop(pid)})"
        if held is not None:
            whom += f" while serving {held.peer} for {monotonic() - held.began:.1f} s"
            self._service.slot.forget_held_in(slot)
        say = log.error if code < 0 else log.warning
        say("connection process %d %s%s", pid, describe(code), whom)

    def _set_alarm(self, moment: float) -> None:
        """Be woken then, wherever we wait."""
        self._alarm_at = moment
        self._watch.expect(moment)
        self._service.alarm.set(Due.OVERDUE_CHILDREN, moment)

    def _oversee(self, now: float) -> None:
        """Take those that have lasted too long down the ladder: interrupt, show, kill."""
        held = {one.lane: one for one in self._service.slot.held()}
        sights = [
            Sight(
                pid,
                (held[slot],) if slot in held else (),
                stopped_since=self._stopped_since.get(pid, 0.0),
            )
            for pid, slot in self._pids.items()
        ]
        for verdict in self._watch.look(sights, now):
            number, step = _STEPS[verdict.act]
            if verdict.act is Act.DUMP:
                step += describe_stuck(verdict.pid)
            if verdict.act is Act.KILL:
                self._killed[verdict.pid] = verdict.reason
            log.warning("connection process %d: %s: %s", verdict.pid, verdict.reason, step)
            os.kill(verdict.pid, number)
        self._alarm_at = None
        if self._watch.wake_at is not None:
            self._set_alarm(self._watch.wake_at)
        elif self._pids and self._service.connection_timeout:
            self._set_alarm(now + self._service.connection_timeout)

    def _look_at_listeners(self) -> None:
        """Leave if a child has found one dead, and it is: the leader can revive it."""
        for listener in self._service.listeners:
            if not (self._service.stop.is_set or listener.is_listening()):
                raise ListenerDied(f"{listener} was shut down by somebody else")

    def _count(self) -> None:
        self._door.hold(len(self._pids) >= self._service.limit or self._count_idle() > 0)

    def _count_idle(self) -> int:
        return self._slots[:].count(AT_DOOR) if self._are_pooled else 0

    def _forward_stop(self) -> None:
        number = signal.SIGQUIT if self._service.stop.is_hurried else signal.SIGTERM
        if number in self._forwarded:
            return
        self._forwarded.append(number)
        if self._service.stop.is_hurried:
            self._kill_at = monotonic() + KILL_AFTER
        for pid in self._pids:
            os.kill(pid, number)
            os.kill(pid, signals.INTERRUPT)

    def _kill_when_due(self, now: float) -> None:
        if self._kill_at is not None and now >= self._kill_at:
            self._kill_at = None
            for pid in self._pids:
                self._killed[pid] = "it did not end when it was interrupted"
                os.kill(pid, signal.SIGKILL)

    # -- in the child

    def _own_nothing(self) -> None:
        """Drop what a child that never waits does not need."""
        for descriptor in self._not_for_children:
            os.close(descriptor)
        for listener in self._service.listeners:
            if not listener.is_datagram:  # those are needed to answer
                Descriptor.close(listener.socket)

    def _own_wakeup(self) -> None:
        """Take a wait and a wakeup of our own; the parent's wakeup stays, to ring it."""
        service = self._service
        parent = service.wakeup
        service.wait.close()
        os.close(parent.reader)
        if service.lifeline is not None:
            os.close(service.lifeline)
        os.close(self._lifeline_end)
        service.attend = service.interrupt_as_asked
        service.open(service.slot, self._lifeline)
        signal.set_wakeup_fd(service.wakeup.writer, warn_on_full_buffer=False)
        self._parent = parent

    def _serve_one(self, record: int, request: Request | None) -> int:
        assert request is not None
        self._lane.record = record
        self._lane.dispatch(request)
        return 0

    def _live_in_pool(self, slot: int, record: int, request: Request | None) -> int:
        service = self._service
        presence = Presence(self._slots, slot, self._parent, self._spare)
        door = service.make_door(attendance=presence)
        lane = self._lane
        lane.record, lane.dispatch = record, service.make_run_handler(door.linger, lane)
        left = self._connections_per_child

        def dispatch(request: Request) -> None:
            nonlocal left
            lane.dispatch(request)
            left -= 1
            if left == 0:
                service.stop.retire()
                door.hold(True)  # not one more, even if the burst has not ended

        if request is not None:
            dispatch(request)
        try:
            accept_loop(door, dispatch)
        except ListenerDied as error:
            log.error("%s", error)
            return LISTENER_DIED
        door.close()
        while door.has_lingering() and not service.stop.is_hurried:
            door.see_off(block=True)
        return 0


class Presence:
    """Whether this child waits at the door, shown to its parent in shared memory."""

    def __init__(self, slots: mmap.mmap, slot: int, parent: Wakeup, spare: int) -> None:
        self._slots = slots
        self._slot = slot
        self._parent = parent
        self._wanted = max(spare, 1)
        self._most = max(spare, IDLE_CHILDREN)

    def arrive(self) -> float | None:
        """Wait; not for long if enough of the others do."""
        is_crowded = self._slots[:].count(AT_DOOR) >= self._most
        self._slots[self._slot] = AT_DOOR
        return CROWDED_PATIENCE if is_crowded else None

    def leave(self) -> None:
        """Ring for the parent when fewer than half of those that it wants wait there.

        Sooner would have it fork while this connection is being served, and on the same CPU more
        often than not; a short connection has ended by then, and its end tells the parent too.
        """
        self._slots[self._slot] = BUSY
        if self._slots[:].count(AT_DOOR) * 2 < self._wanted:
            self._parent.ring()
