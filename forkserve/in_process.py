"""Serve in the process and thread of the caller's choice, for tests, notebooks and debuggers."""

import signal
import threading
from collections.abc import Callable
from types import FrameType

from forkserve import signals
from forkserve.scoreboard import Slot
from forkserve.service import Service
from forkserve.strategies import Strategy


class InProcess:
    """One time of serving, from its first listener to its last connection.

    Owns the service's listeners. Whoever calls stop() may be in any thread that serves no
    connection; a handler uses ``self.server.shutdown()``.
    """

    def __init__(
        self, service: Service, strategy: Strategy, slot: Slot, drain_timeout: float
    ) -> None:
        self._service = service
        self._drain_timeout = drain_timeout
        self._strategy = strategy
        self._failure: BaseException | None = None
        self._own_thread: threading.Thread | None = None
        self._thread: threading.Thread | None = None  # the one that serves
        self._was_asked = threading.Event()
        self._has_ended = threading.Event()
        self._bell = threading.Lock()  # so that nobody rings a bell that was given back
        service.open(slot, owns_listeners=True)

    def start(self) -> None:
        """Serve in a thread of its own; returns at once."""
        self._own_thread = threading.Thread(target=self._serve, name="forkserve")
        self._own_thread.start()

    def run(self, on_ready: Callable[[], None]) -> None:
        """Serve here, until stop(), or in the main thread until TERM or INT."""
        try:
            on_ready()
        except BaseException:
            self._close()
            raise
        if threading.current_thread() is threading.main_thread():
            handlers: dict[int, signals.Handler] = {
                signal.SIGTERM: self._on_signal,
                signal.SIGINT: self._on_signal,
            }
            # The main thread may be held up by a handler: another one watches the time.
            enforcer = threading.Thread(target=self._enforce, name="forkserve-drain", daemon=True)
            enforcer.start()
            with signals.handled(handlers, self._service.wakeup.writer):
                self._serve()
            enforcer.join()
        else:
            self._serve()
        self._pass_on_failure()

    def ask(self) -> None:
        """Ask for an orderly stop, and return at once."""
        self._tell(self._service.stop.request)

    def has_ended(self) -> bool:
        """Whether nothing of it runs or listens any more."""
        return self._has_ended.is_set()

    def stop(self, timeout: float | None = None) -> None:
        """Ask, interrupt after timeout seconds what still runs, and wait for the end.

        Only asks if called from the serving thread, which would wait for itself.
        """
        self.ask()
        if self._thread is threading.current_thread():
            return
        self._wait_and_hurry(self._drain_timeout if timeout is None else timeout)
        self._has_ended.wait()
        if self._own_thread is not None:
            self._own_thread.join()
        self._pass_on_failure()

    def _enforce(self) -> None:
        self._was_asked.wait()
        self._wait_and_hurry(self._drain_timeout)

    def _wait_and_hurry(self, timeout: float) -> None:
        if not self._has_ended.wait(timeout):
            self._tell(self._service.stop.hurry)

    def _serve(self) -> None:
        self._thread = threading.current_thread()
        try:
            self._strategy.serve(self._service)
        except BaseException as error:
            self._failure = error
        finally:
            self._close()

    def _close(self) -> None:
        for listener in self._service.listeners:
            listener.close()
        with self._bell:
            self._has_ended.set()
            self._service.close()
        self._was_asked.set()  # nobody needs to wait for that any more

    def _tell(self, how: Callable[[], None]) -> None:
        with self._bell:
            how()
            if not self._has_ended.is_set():
                self._service.interrupt_as_asked()
                self._service.wakeup.ring()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        stop = self._service.stop
        if stop.is_set:
            stop.hurry()
        else:
            stop.request()
        self._was_asked.set()
        self._service.interrupt_as_asked()  # the handler may sit in recv in this very thread

    def _pass_on_failure(self) -> None:
        if self._failure is not None:
            raise self._failure
