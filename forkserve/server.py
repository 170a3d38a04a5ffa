"""Put a handler, its addresses and a mode together, and serve."""

import gc
import os
import signal
import sys
from _thread import allocate_lock, get_ident
from collections.abc import Callable, Sequence
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Self

from forkserve import signals
from forkserve.address import DEFAULT_ADDRESS, parse_address
from forkserve.admission import raise_descriptor_limit, share
from forkserve.adopt import adopt
from forkserve.errors import ForkserveError, SettingsError
from forkserve.listener import Listener, open_listeners
from forkserve.log import log, write_line
from forkserve.service import Service
from forkserve.settings import Mode, Settings, find_contradiction
from forkserve.stop import Stop
from forkserve.strategies import Strategy, make_strategy
from forkserve.view import View, stop_process

if TYPE_CHECKING:
    import threading

    from forkserve.service import MakeDispatcher


class Server:
    """A handler served on some addresses in one of the four modes.

    ``handler`` is a StreamHandler subclass, a function of one connection, or a ``socketserver``
    handler class. ``mode`` is a Mode or its name; prefork, or thread with ``in_process=True``.
    ``workers`` and ``threads`` as the flags of the command; times in seconds. ``strategy``
    replaces what the mode chooses, ``dispatcher`` what an iterative worker does with a connection.

    Nothing is opened before run(), start() or the ``with`` block. Raises SettingsError for
    settings that are wrong or contradict each other, TargetError if the handler is none.
    """

    def __init__(
        self,
        handler: Any,
        *addresses: str,
        mode: Mode | str | None = None,
        workers: int | None = None,
        threads: int | None = None,
        spare: int = 0,
        connections_per_child: int = 1,
        max_connections: int = 1024,
        drain_timeout: float = 25.0,
        boot_timeout: float = 60.0,
        access_log: bool = False,
        in_process: bool = False,
        strategy: Strategy | None = None,
        dispatcher: "MakeDispatcher | None" = None,
    ) -> None:
        self._settings = Settings(
            bind=addresses or (DEFAULT_ADDRESS,),
            mode=_read_mode(mode, in_process=in_process),
            workers=workers,
            threads=threads,
            spare=spare,
            connections_per_child=connections_per_child,
            max_connections=max_connections,
            drain_timeout=drain_timeout,
            boot_timeout=boot_timeout,
            access_log=access_log,
        )
        wrong = find_contradiction(self._settings)
        if wrong is not None:
            raise SettingsError(wrong[0])
        if in_process and self._settings.mode not in (Mode.ITERATIVE, Mode.THREAD):
            raise SettingsError(f"{self._settings.mode} mode needs processes of its own")
        self._addresses = [parse_address(text) for text in self._settings.bind]
        self._serve, self._connection_type = adopt(handler)
        self._in_process = in_process
        self._make_dispatcher = dispatcher
        self._strategy = strategy or make_strategy(
            self._settings.mode,
            threads=threads,
            spare=spare,
            connections_per_child=connections_per_child,
        )
        self._stop = Stop()
        self._service: Service | None = None
        self._listeners: Sequence[Listener] = ()
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._ending = allocate_lock()  # so that stop() rings no bell that is being given back
        self.addresses: list[str] = []

    # -- in processes of its own

    def run(self, on_ready: Callable[[], None] | None = None) -> None:
        """Serve until TERM or INT; blocks. ``on_ready`` is called when every worker is ready.

        In the main thread, or with ``in_process`` in any, then until stop(). This process is the
        parent of the workers: it forks, so it should have no other threads. Raises ListenError,
        or BootError if the first workers do not come up.
        """
        if self._in_process:
            self._run_here(on_ready)
            return
        from forkserve.process.leader import Bounds, Leader

        _refuse_other_threads()
        settings = self._settings
        workers = settings.count_workers()
        self._open(stop_process(os.getpid()))
        try:
            service = self._make_service(workers)
            _warn_of_threads()
            gc.collect()
            gc.freeze()  # the workers share what is here as long as nobody collects it
            bounds = Bounds(workers, settings.drain_timeout, settings.boot_timeout)
            ready = on_ready or self._announce
            Leader(self._listeners, service, self._strategy, bounds, ready).run()
        finally:
            self._close()

    def _announce(self) -> None:
        for address in self.addresses:
            write_line(f"forkserve: listening on {address}")

    def _open(self, shutdown: Callable[[], None]) -> None:
        self._listeners = open_listeners(self._addresses)
        self.addresses = [str(listener) for listener in self._listeners]
        for listener in self._listeners:
            listener.connection_type = self._connection_type
            listener.server = View(listener, self._stop, shutdown)
        _warn_of_short_queue(self._listeners)

    def _make_service(self, workers: int) -> Service:
        settings = self._settings
        limit = share(settings.max_connections, workers)
        allowed = raise_descriptor_limit(limit)
        if allowed is not None:
            log.warning(
                "%d connections a worker need more than the %d descriptors this process may open",
                limit,
                allowed,
            )
        return Service(
            self._listeners,
            self._serve,
            self._stop,
            limit=limit,
            is_shared=workers > 1 or settings.mode is Mode.PROCESS,
            access_log=settings.access_log,
            make_dispatcher=self._make_dispatcher,
        )

    def _close(self) -> None:
        for listener in self._listeners:
            listener.close()

    # -- in this process

    def start(self) -> None:
        """Serve in this process, in a thread of its own, until stop(); returns when bound.

        Needs ``in_process=True``; installs no signal handler.
        """
        import threading

        if not self._in_process:
            raise SettingsError("start() serves in this process: pass in_process=True, or run()")
        service = self._open_here()
        self._thread = threading.Thread(target=self._serve_here, args=[service], name="forkserve")
        self._thread.start()

    def stop(self, timeout: float | None = None) -> None:
        """Stop what start() or an in-process run() began; from any thread.

        What runs may finish within timeout seconds (the drain timeout if None), then it is
        interrupted. Blocks until all of it has ended, unless called from the serving thread.
        """
        import threading

        self._ask(self._stop.request)
        thread = self._thread
        if thread is None or thread is threading.current_thread():
            return
        thread.join(self._settings.drain_timeout if timeout is None else timeout)
        if thread.is_alive():
            self._ask(self._stop.hurry)
            thread.join()
        self._thread = None
        if self._failure is not None:
            raise self._failure

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _open_here(self) -> Service:
        self._stop = Stop()
        self._open(lambda: self._ask(self._stop.request))
        service = self._make_service(workers=1)
        service.open()
        service.attend = self._attend_here
        self._service = service
        return service

    def _ask(self, how: Callable[[], None]) -> None:
        with self._ending:
            how()
            if self._service is not None:
                self._service.interrupt_as_asked()
                self._service.wakeup.ring()

    def _attend_here(self) -> None:
        if self._stop.is_set and self._service is not None:
            for listener in self._listeners:
                listener.quiesce()
            self._service.interrupt_as_asked()

    def _serve_here(self, service: Service) -> None:
        try:
            self._strategy.serve(service)
        except BaseException as error:
            self._failure = error
        finally:
            with self._ending:
                self._service = None
                service.close()
            self._close()

    def _run_here(self, on_ready: Callable[[], None] | None) -> None:
        service = self._open_here()
        (on_ready or self._announce)()
        try:
            with signals.handled(
                dict.fromkeys((signal.SIGTERM, signal.SIGINT), self._on_signal),
                service.wakeup.writer,
            ):
                self._serve_here(service)
        except ValueError:  # not the main thread: no signals, stop() ends it
            self._serve_here(service)
        if self._failure is not None:
            raise self._failure

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._stop.is_set:
            self._stop.hurry()
        else:
            self._stop.request()
        if self._service is not None:
            self._service.interrupt_as_asked()


def _read_mode(mode: Mode | str | None, *, in_process: bool) -> Mode:
    if mode is None:
        return Mode.THREAD if in_process else Mode.PREFORK
    try:
        return Mode(mode)
    except ValueError:
        raise SettingsError(f"mode {mode!r} is not one of {', '.join(Mode)}") from None


def _refuse_other_threads() -> None:
    threading = sys.modules.get("threading")
    if threading is not None and threading.main_thread().ident != get_ident():
        raise ForkserveError("run() forks and takes signals: call it in the main thread")


def _warn_of_threads() -> None:
    """Name the threads that a user's import has left running: fork copies none of them."""
    try:
        count = len(os.listdir("/proc/self/task"))
    except OSError:
        return
    if count > 1:
        import threading

        names = ", ".join(thread.name for thread in threading.enumerate()[1:]) or "not Python's"
        log.warning(
            "%d threads run before the first fork (%s): workers lack them", count - 1, names
        )


def _warn_of_short_queue(listeners: Sequence[Listener]) -> None:
    try:
        with open("/proc/sys/net/core/somaxconn") as file:
            most = int(file.read())
    except (OSError, ValueError):
        return
    for listener in listeners:
        if listener.address.backlog > most:
            log.warning(
                "%s: a backlog of %d is more than the system's %d (net.core.somaxconn)",
                listener,
                listener.address.backlog,
                most,
            )
