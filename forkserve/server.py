"""Put a handler, its addresses and a mode together, and serve."""

import gc
import os
import sys
from _thread import get_ident
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from forkserve import signals
from forkserve.address import DEFAULT_ADDRESS, parse_address
from forkserve.admission import count_lanes, raise_descriptor_limit, share
from forkserve.adopt import adopt, choose, refuse_misfits
from forkserve.binding import (
    AnyListener,
    open_listeners,
    open_patiently,
    refuse_twins,
    warn_of_short_queue,
)
from forkserve.errors import ForkserveError, SettingsError
from forkserve.hooks import Hooks, gather_hooks
from forkserve.listener import Listener
from forkserve.log import log, write_line
from forkserve.process.hang import Kind, Timeouts
from forkserve.process.leader import Above, Bounds, Leader
from forkserve.scoreboard import Scoreboard
from forkserve.service import Service
from forkserve.settings import (
    Mode,
    Settings,
    check_ranges,
    count_boots_at_once,
    find_contradiction,
)
from forkserve.stop import Stop
from forkserve.strategies import Strategy, make_strategy
from forkserve.view import View, stop_process

if TYPE_CHECKING:
    from forkserve.in_process import InProcess
    from forkserve.process.home import Superior
    from forkserve.service import MakeDispatcher


class Server:
    """A handler served on some addresses in one of the four modes.

    ``handler`` is a StreamHandler or DatagramHandler subclass, a function of one connection or
    datagram, a ``socketserver`` handler class, or a ``socketserver`` server object. Such an object
    is forkserve's from here on: its socket is served, or moved to the addresses given, and closed
    in the end. Without an address its own is served, and for other handlers tcp://127.0.0.1:9000.

    ``mode`` is a Mode or its name; prefork, or thread with ``in_process=True``. ``workers`` and
    ``threads`` as the flags of the command; times in seconds. ``strategy`` replaces what the mode
    chooses, ``dispatcher`` what an iterative worker does with a connection.

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
        connection_timeout: float = 0.0,
        liveness_timeout: float = 30.0,
        hooks: Hooks = Hooks(),  # noqa: B008
        bind_retries: int = 0,
        access_log: bool = False,
        in_process: bool = False,
        strategy: Strategy | None = None,
        dispatcher: "MakeDispatcher | None" = None,
    ) -> None:
        self._settings = Settings(
            bind=addresses,
            mode=_read_mode(mode, in_process=in_process),
            workers=workers,
            threads=threads,
            spare=spare,
            connections_per_child=connections_per_child,
            max_connections=max_connections,
            drain_timeout=drain_timeout,
            boot_timeout=boot_timeout,
            connection_timeout=connection_timeout,
            liveness_timeout=liveness_timeout,
            bind_retries=bind_retries,
            access_log=access_log,
        )
        check_ranges(self._settings)
        wrong = find_contradiction(self._settings)
        if wrong is not None:
            raise SettingsError(wrong[0])
        if in_process and self._settings.mode not in (Mode.ITERATIVE, Mode.THREAD):
            raise SettingsError(
                f"{self._settings.mode} mode needs processes of its own: in this one only"
                " iterative and thread can be"
            )
        self._adopted = adopt(handler)
        self._hooks = gather_hooks(self._adopted.handler_class, hooks)
        if not addresses and self._adopted.server is None:
            if self._adopted.serve_connection is None:
                raise SettingsError(
                    f"{self._adopted.name} is for datagrams: it needs an address, as in"
                    " udp://127.0.0.1:9000"
                )
            addresses = (DEFAULT_ADDRESS,)
        self._addresses = [parse_address(text) for text in addresses]
        try:
            refuse_twins(self._addresses)
            refuse_misfits(self._adopted, self._addresses)
        except SettingsError:
            self.close()
            raise
        self._in_process = in_process
        self._make_dispatcher = dispatcher
        self._strategy = strategy or make_strategy(
            self._settings.mode,
            threads=threads,
            spare=spare,
            connections_per_child=connections_per_child,
        )
        self._session: InProcess | None = None
        self.addresses: list[str] = []

    def run(
        self, on_ready: Callable[[], None] | None = None, *, ready_fd: int | None = None
    ) -> None:
        """Serve until TERM or INT; blocks. ``on_ready`` is called when every worker is ready.

        By default a line for each address then goes to standard error. ``ready_fd`` is a
        descriptor to which the addresses are written too, one a line, and which is then closed.

        In the main thread: this process is the parent of the workers, so it should have no other
        threads. With ``in_process`` in any thread, then until stop(). Raises ListenError, or
        BootError if the first workers do not come up.
        """
        if self._in_process:
            self._open_session().run(lambda: self._announce(on_ready, ready_fd))
            return
        _refuse_other_threads()
        self._hooks.start_leader()
        mask = signals.block()  # until the leader takes them: nothing is left behind by a TERM
        listeners: list[AnyListener] = []
        try:
            listeners = self._listen()
            private = [] if ready_fd is None else [ready_fd]
            above = Above(lambda: self._announce(on_ready, ready_fd), private=private)
            self._lead(listeners, mask, above, self._make_board(), stop_process(os.getpid()))
        finally:
            for listener in listeners:
                listener.close()
            signals.restore(mask)

    def run_under(self, superior: "Superior") -> None:
        """Be the leader of a generation, in a process that a supervisor has forked; blocks.

        Serves at the superior's listeners, or if it has none where the handler is at home. Raises
        what run() raises.
        """
        self._hooks.start_leader()
        if not superior.is_for_us():
            raise SystemExit  # from the user's fork: the leader is the other one
        mask = signals.without_ours(signals.block())  # whatever the user's module has done to it
        listeners = self._listen_under(superior)
        superior.say_loaded()
        above = Above(
            superior.say_ready, superior.fileno(), superior.pid, say_leaving=superior.say_leaving
        )
        self._lead(listeners, mask, above, superior.board, stop_process(superior.pid))

    def _lead(
        self,
        listeners: Sequence[AnyListener],
        mask: signals.Mask,
        above: Above,
        board: Scoreboard,
        shutdown: Callable[[], None],
    ) -> None:
        settings = self._settings
        bounds = Bounds(
            settings.count_workers(),
            count_boots_at_once(),
            settings.drain_timeout,
            settings.boot_timeout,
            Timeouts(settings.connection_timeout, settings.liveness_timeout),
            _find_kind(settings),
        )
        service = self._make_service(listeners, bounds.workers, shutdown)
        _warn_of_threads()
        gc.collect()
        gc.freeze()  # the workers share what is here as long as nobody collects it
        Leader(listeners, service, self._strategy, bounds, board).run(mask, above)

    def _make_board(self) -> Scoreboard:
        return Scoreboard(self._settings.count_workers(), count_lanes(self._settings))

    def run_alone(self, *, ready_fd: int | None = None) -> None:
        """Serve in this process, with no parent above it, until TERM or INT; blocks.

        For debuggers: in every mode, by one worker. Signals are held back from its end on, so
        that one more TERM does not hit a process in ruins. Raises ListenError, and BootError if a
        hook raises.
        """
        from forkserve.process.alone import Alone

        self._settings = self._settings._replace(workers=1)
        self._hooks.start_leader()
        self._hooks.start_worker()
        mask = signals.block()
        listeners: list[AnyListener] = []
        try:
            listeners = self._listen()
            service = self._make_service(listeners, 1, stop_process(os.getpid()))
            slot = self._make_board().take_slot()
            alone = Alone(service, self._strategy, slot, self._settings.drain_timeout)
            alone.run(mask, lambda: self._announce(None, ready_fd))
        finally:
            for listener in listeners:
                listener.close()

    def start(self) -> None:
        """Serve in this process, in a thread of its own, until stop(); returns when bound.

        Needs ``in_process=True``; installs no signal handler. Raises ListenError.
        """
        self._open_session().start()

    def stop(self, timeout: float | None = None) -> None:
        """Stop what start() or an in-process run() began; from any thread, but not a handler's.

        What runs may finish within timeout seconds (the drain timeout if None), then it is
        interrupted. Blocks until all of it has ended.
        """
        if self._session is not None:
            self._session.stop(timeout)

    def close(self) -> None:
        """Give up what a server object has bound, if it is not going to be served."""
        if self._adopted.server is not None:
            self._adopted.server.leave()

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

    def _announce(self, on_ready: Callable[[], None] | None, ready_fd: int | None) -> None:
        if on_ready is not None:
            on_ready()
        else:
            say_listening(self.addresses)
        if ready_fd is not None:
            write_ready(self.addresses, ready_fd)

    def _open_session(self) -> "InProcess":
        from forkserve.in_process import InProcess  # imports threading

        if not self._in_process:
            raise SettingsError("start() serves in this process: pass in_process=True, or run()")
        if self._session is not None and not self._session.has_ended():
            raise ForkserveError("this server is serving already")
        self._settings = self._settings._replace(workers=1)
        service = self._make_service(self._listen(), 1, shutdown=self._ask_session)
        slot = self._make_board().take_slot()
        self._session = InProcess(service, self._strategy, slot, self._settings.drain_timeout)
        return self._session

    def _ask_session(self) -> None:
        if self._session is not None:
            self._session.ask()

    def _listen(self) -> list[AnyListener]:
        listeners = open_patiently(self._open, self._settings.bind_retries)
        self.addresses = [str(listener) for listener in listeners]
        warn_of_short_queue(listeners)
        return listeners

    def _listen_under(self, superior: "Superior") -> list[AnyListener]:
        server = self._adopted.server
        if superior.listeners:
            self._settle(superior.listeners)
            if server is None:
                return list(superior.listeners)
            return server.listen_on(superior.listeners)
        if server is not None:
            kept = server.kept(superior.kept)
            listeners = [] if kept is None else server.listen_on([kept])
            again = kept
        else:
            again = next((k for k in superior.kept if k.address.text == DEFAULT_ADDRESS), None)
            listeners = [] if again is None else [again]
        if again is not None:
            superior.use_again(again)
            return listeners
        listeners = self._listen()
        for listener in listeners:
            superior.give(listener)
        return listeners

    def _open(self) -> list[AnyListener]:
        server = self._adopted.server
        if server is not None and not self._addresses:
            return server.listen_at_home()
        listeners = open_listeners(self._addresses)
        self._settle(listeners)
        return listeners if server is None else server.listen_on(listeners)

    def _settle(self, listeners: Sequence[AnyListener]) -> None:
        """Close all of them and raise SettingsError if one is not for this handler."""
        try:
            refuse_misfits(self._adopted, listeners)
        except SettingsError:
            for listener in listeners:
                listener.close()
            raise

    def _make_service(
        self, listeners: Sequence[AnyListener], workers: int, shutdown: Callable[[], None]
    ) -> Service:
        settings = self._settings
        limit = share(settings.max_connections, workers)
        allowed = raise_descriptor_limit(limit)
        if allowed is not None:
            log.warning(
                "%d connections a worker need more than the %d descriptors this process may open",
                limit,
                allowed,
            )
        stop = Stop()
        adopted = self._adopted
        for listener in listeners:
            if isinstance(listener, Listener):
                listener.connection_type = adopted.connection_type
            listener.server = view = View(
                listener,
                stop,
                shutdown,
                handler=adopted.handler_class,
                multithread=settings.serves_in_threads(),
                multiprocess=workers > 1 or settings.mode is Mode.PROCESS,
            )
            if adopted.server is not None:
                adopted.server.attach(listener, view)
        service = Service(
            listeners,
            choose(
                adopted,
                connections=not all(listener.is_datagram for listener in listeners),
                datagrams=any(listener.is_datagram for listener in listeners),
            ),
            stop,
            limit=limit,
            is_shared=workers > 1 or settings.mode is Mode.PROCESS,
            connection_timeout=settings.connection_timeout,
            liveness_timeout=settings.liveness_timeout,
            hooks=self._hooks,
            access_log=settings.access_log,
            make_dispatcher=self._make_dispatcher,
        )
        for listener in listeners:
            listener.server.be_told_to_extend(service.extend_timeout)
        return service


def say_listening(addresses: Sequence[str]) -> None:
    """Write a line for each address to standard error."""
    for address in addresses:
        write_line(f"forkserve: listening on {address}")


def write_ready(addresses: Sequence[str], descriptor: int) -> None:
    """Write the addresses to a descriptor, one a line, and close it."""
    try:
        os.write(descriptor, "".join(f"{address}\n" for address in addresses).encode())
        os.close(descriptor)
    except OSError as error:
        log.warning("ready descriptor %d: %s", descriptor, error)


def _find_kind(settings: Settings) -> Kind:
    if settings.mode is Mode.PROCESS:
        return Kind.CHILDREN
    return Kind.THREADS if settings.serves_in_threads() else Kind.INLINE


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
