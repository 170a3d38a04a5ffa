"""Where an accept loop waits for connections."""

import contextlib
import errno
from _thread import allocate_lock
from collections.abc import Callable, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Protocol

from forkserve.binding import AnyListener
from forkserve.datagram import DatagramListener
from forkserve.endpoint import ListenerDied
from forkserve.lingering import Lingering
from forkserve.log import Seldom, log
from forkserve.stop import Stop
from forkserve.wait import EXCLUSIVE, Wait

if TYPE_CHECKING:
    from forkserve.pulse import Pulse

PAUSE = 0.1
GRACE = 0.02  # a handshake that began before the door was closed ends within this
FRUITLESS = 100  # wake-ups in a row


class Attendance(Protocol):
    """Told when somebody begins and ends to wait at the door."""

    def arrive(self) -> float | None:
        """Say that one more waits, and return how many seconds it may: 0 sends it away."""
        ...

    def leave(self) -> None:
        """Say that it does not wait any more."""
        ...


class Door:
    """The listeners of one process, watched while there is room.

    Several threads may wait here, each running accept_loop. On the way of a connection they take
    no lock: what they share are single dictionary and epoll operations. ``linger`` takes over a
    connection that was served.
    """

    def __init__(
        self,
        listeners: Sequence[AnyListener],
        stop: Stop,
        limit: int,
        wait: Wait,
        *,
        on_stop: Callable[[], None],
        is_shared: bool = False,
        attendance: Attendance | None = None,
        pulse: "Pulse | None" = None,
    ) -> None:
        self.is_full = False
        self.is_paused = False
        self._is_held = False
        self.is_closing = False
        self.taken = 0
        self._stop = stop
        self._limit = limit
        self._wait = wait
        self._on_stop = on_stop
        self._is_shared = is_shared
        self._attendance = attendance
        self._pulse = pulse
        self._listeners = {listener.fileno(): listener for listener in listeners}
        self._is_watching = False
        self._turning = allocate_lock()  # taken to watch or not, when that changes
        self._paused_until = 0.0
        self._closing_at: float | None = None
        self._found_at = -1
        self._fruitless = 0
        self._is_dead_at_first_sight = False
        self._trouble = Seldom()
        self._trouble_unsaid = 0
        self._lingering = Lingering(wait, on_change=self._count)
        self.linger = self._lingering.add
        # With one listener a burst is served before anything else is looked at; with several, one
        # connection each, so that a flood on one cannot starve another.
        self.burst = 64 if len(listeners) == 1 else 1

    # -- waiting

    def wait(self) -> list[AnyListener]:
        """Block until some listeners may have a connection; none of them: the door is closed."""
        while True:
            now = monotonic()
            if self._stop.is_set and self._is_over(now):
                return []
            self._watch(now)
            found = self._attend(now) if self._attendance else self._poll(self._timeout(now))
            if found is None:
                return []
            ready = self._sort(found)
            if ready:  # also if the door was just filled: nobody else is woken for it
                self._look_at_the_dead(ready)
                self._found_at = self.taken
                return ready
            if self.is_closing and (self._is_watching or not self._listeners):
                self._refuse()
                return []

    def _look_at_the_dead(self, ready: Sequence[AnyListener]) -> None:
        """Raise ListenerDied if one is said to be ready again and again, and has nothing.

        So looks a socket that somebody has shut down, for which accept(2) has no error. It may be
        our owner at a stop: the second look tells. UDP still receives then: look less often.
        """
        self._fruitless = 0 if self.taken != self._found_at else self._fruitless + 1
        if self._fruitless < FRUITLESS or self._stop.is_set:
            return
        self._fruitless = 0
        shut = [listener for listener in ready if not listener.is_listening()]
        dead = [listener for listener in shut if not listener.is_ending()]
        if dead and self._is_dead_at_first_sight:
            raise ListenerDied(f"{dead[0]} was shut down by somebody else")
        self._is_dead_at_first_sight = bool(dead)
        if shut or any(listener.is_datagram for listener in ready):
            self._paused_until = monotonic() + PAUSE

    def _attend(self, now: float) -> list[int] | None:
        """Wait under the eyes of those who count; None if that was long enough."""
        assert self._attendance is not None
        patience = self._attendance.arrive()
        if patience == 0:
            return None
        timeout = self._timeout(now)
        if patience is not None:
            timeout = patience if timeout is None else min(timeout, patience)
        found = self._poll(timeout)
        self._attendance.leave()
        if not found and patience is not None and monotonic() >= now + patience:
            return None
        return found

    def _is_over(self, now: float) -> bool:
        if self._closing_at is None:
            self._closing_at = now + GRACE
            self._on_stop()
            for listener in tuple(self._listeners.values()):
                if not listener.is_owned:  # its queue is for whoever has it too
                    self.drop(listener)
        if self._stop.is_hurried or self._stop.is_retired:
            return True  # the queue is for others, or for nobody
        self.is_closing = self.is_closing or now >= self._closing_at
        if self.is_closing:
            self._leave_to_others()
            if not self._listeners:
                return True
        if self._found_at != self.taken:
            return False
        # A Unix listener that was shut down looks ready for ever: an empty one is looked at once
        # more, when the door closes.
        self._found_at = -1
        self._paused_until = self._closing_at
        if self.is_closing:
            self._refuse()
        return self.is_closing

    def _leave_to_others(self) -> None:
        """Let go of the listeners whose queue others will empty: those that are not quiesced.

        Not before the grace is over: at a stop of the whole server each of its processes may be
        told by somebody else than the owner of the listeners, and before it.
        """
        for listener in tuple(self._listeners.values()):
            if not listener.is_quiesced():
                self.drop(listener)

    def _refuse(self) -> None:
        """Let those who come now know that nobody is here, if that is so in every process."""
        for listener in tuple(self._listeners.values()):
            if listener.is_quiesced():
                listener.refuse()

    def _watch(self, now: float) -> None:
        self.is_paused = now < self._paused_until
        if self._is_watching is self._wants_to_watch():
            return
        with self._turning:  # else who lets go might do it after who comes back, and all be deaf
            wanted = self._wants_to_watch()
            if wanted is self._is_watching:
                return
            self._is_watching = wanted
            for descriptor in tuple(self._listeners):  # at a stop another thread may drop some
                with contextlib.suppress(OSError):
                    if wanted:
                        self._register(descriptor)
                    else:
                        self._wait.unregister(descriptor)

    def _wants_to_watch(self) -> bool:
        return not (self.is_full or self.is_paused)

    def _poll(self, timeout: float | None) -> list[int]:
        if self._pulse is None:
            found = self._wait.poll(timeout)
        else:
            self._pulse.fall_asleep()
            found = self._wait.poll(timeout)
            self._pulse.wake_up()
        if not found:
            self._lingering.settle_all()
        return found

    def _timeout(self, now: float) -> float | None:
        due = []
        if self._paused_until > now:
            due.append(self._paused_until)
        patience = self._lingering.patience(now)
        if patience is not None:
            due.append(now + patience)
        if self._closing_at is not None:
            if not self.is_closing:
                due.append(self._closing_at)
            elif self._is_watching:
                return 0.0
        return max(0.0, min(due) - now) if due else None

    def _sort(self, found: list[int]) -> list[AnyListener]:
        ready = []
        for descriptor in found:
            listener = self._listeners.get(descriptor)
            if listener is not None:
                ready.append(listener)
                if isinstance(listener, DatagramListener):
                    listener.look_for_drops(monotonic())
                if self._is_shared:
                    self._go_to_the_end_of_the_line(descriptor)
            else:
                self._lingering.hear(descriptor)
        if self._lingering.has_deadlines():
            self._lingering.expire(monotonic())
        return ready

    def _go_to_the_end_of_the_line(self, descriptor: int) -> None:
        # EPOLLEXCLUSIVE always wakes the first in line: who was woken goes to its end, and the
        # connections are shared evenly by the processes that wait.
        with contextlib.suppress(OSError):  # at a stop another thread may close it meanwhile
            self._wait.unregister(descriptor)
            self._register(descriptor)
        if not self._is_watching or descriptor not in self._listeners:
            self._let_go_again(descriptor)

    def _let_go_again(self, descriptor: int) -> None:
        """Undo a registration that another thread, who has let go meanwhile, could not see."""
        with self._turning:
            if not self._is_watching or descriptor not in self._listeners:
                with contextlib.suppress(OSError):
                    self._wait.unregister(descriptor)

    def _register(self, descriptor: int) -> None:
        try:
            self._wait.register(descriptor, EXCLUSIVE)
        except OSError as error:
            if error.errno in (errno.ENOMEM, errno.ENOSPC):  # epoll_ctl(2): else we would be deaf
                self._is_watching = False
                self.pause(error)
            elif error.errno == errno.EBADF and not self._stop.is_set:
                raise ListenerDied("a listening socket was closed by somebody else") from error

    def is_stopping(self) -> bool:
        """Whether this process was asked to leave."""
        return self._stop.is_set

    # -- trouble

    def pause(self, reason: BaseException) -> None:
        """Stop watching for a moment: the machine is at a limit, and the clients can wait."""
        now = monotonic()
        self.is_paused = True
        self._paused_until = now + PAUSE
        self._trouble_unsaid += 1
        if self._trouble.is_due(now):
            name = errno.errorcode.get(getattr(reason, "errno", None) or 0, type(reason).__name__)
            log.warning(
                "cannot take connections: %s (%s), %d times; trying again every %d ms",
                reason,
                name,
                self._trouble_unsaid,
                PAUSE * 1000,
            )
            self._trouble_unsaid = 0

    # -- room

    def hold(self, is_held: bool) -> None:
        """Keep the door shut, or not, for a reason that only the caller knows."""
        self._is_held = is_held
        self._count()

    def _count(self) -> None:
        self.is_full = self._is_held or self._lingering.count_watched() >= self._limit

    # -- the end

    def drop(self, listener: AnyListener) -> None:
        """Watch a listener no more that was emptied and shut down."""
        descriptor = listener.fileno()
        if self._listeners.pop(descriptor, None) is not None and self._is_watching:
            with contextlib.suppress(OSError):  # another thread may just renew or close it
                self._wait.unregister(descriptor)

    def close(self) -> None:
        """Close this process's copies of the listeners; what lingers goes on."""
        while self._listeners:
            with contextlib.suppress(KeyError):  # two threads may close at once
                descriptor, listener = self._listeners.popitem()
                if self._is_watching:  # closing does not, while another process has it open
                    with contextlib.suppress(OSError):  # a handler may have closed it
                        self._wait.unregister(descriptor)
                listener.let_go()
        self._is_watching = False

    def has_lingering(self) -> bool:
        """Whether some peer has yet to close."""
        return bool(self._lingering)

    def see_off(self, *, block: bool) -> None:
        """Wait once for the peers that have yet to close, or only look at them."""
        self._lingering.settle_all()
        if self._lingering:
            self._sort(self._wait.poll(self.patience() if block else 0))

    def patience(self) -> float | None:
        """Return the seconds until some peer has had its time; None if nothing is due."""
        return self._lingering.patience(monotonic())
