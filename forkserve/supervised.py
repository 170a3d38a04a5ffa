"""Serve a target under a supervisor, which is what the command does."""

import contextlib
import os
from collections.abc import Sequence
from functools import partial
from typing import Any

from forkserve import signals, stacks
from forkserve.address import Address, parse_address
from forkserve.admission import count_lanes
from forkserve.adopt import with_second_chance
from forkserve.binding import (
    AnyListener,
    open_listeners,
    open_patiently,
    refuse_twins,
    warn_of_short_queue,
)
from forkserve.endpoint import LISTENER_DIED, ListenerDied
from forkserve.errors import BootError, ForkserveError, TargetError
from forkserve.hooks import Hooks
from forkserve.log import log, write_line
from forkserve.process.fork import leave_threads
from forkserve.process.home import Superior
from forkserve.process.supervisor import Bounds, Supervisor
from forkserve.server import Server, say_listening, write_ready
from forkserve.settings import Settings
from forkserve.strategies import make_strategy
from forkserve.target import load_target


def supervise(target: str, settings: Settings) -> None:
    """Serve until TERM, INT or QUIT; blocks, in the main thread of a process with no other.

    The target is imported in other processes only. Raises ListenError, SettingsError, and what
    keeps the first generation from serving.
    """
    addresses = [parse_address(text) for text in settings.bind]
    refuse_twins(addresses)
    make_strategy(  # imported once, here: what a later generation runs is of the same age
        settings.mode,
        threads=settings.threads,
        spare=settings.spare,
        connections_per_child=settings.connections_per_child,
    )
    bounds = Bounds(
        settings.drain_timeout,
        settings.boot_timeout,
        settings.patience_with_boots(),
        settings.count_workers(),
        count_lanes(settings),
    )
    mask = signals.block()  # for good: what comes when this has ended is for a process in ruins
    listeners: list[AnyListener] = []
    try:
        listeners = _open(settings, addresses, mask)
        folders = find_folders(target) if settings.reload else ()
        Supervisor(listeners, partial(_lead, target, settings), bounds, folders).run(
            mask,
            partial(_announce, settings.ready_fd),
            private=[] if settings.ready_fd is None else [settings.ready_fd],
        )
    finally:
        for listener in listeners:
            listener.close()


def find_folders(target: str) -> tuple[str, ...]:
    """Return where the code of a target may be: the current folder, and the one of its file."""
    place = target.rpartition(":")[0]
    folders = [os.getcwd()]
    if place.endswith(".py") or "/" in place:
        folders.append(os.path.dirname(os.path.abspath(place)))
    return tuple(dict.fromkeys(folders))


def _open(
    settings: Settings, addresses: Sequence[Address], mask: signals.Mask
) -> list[AnyListener]:
    try:
        listeners = open_patiently(lambda: open_listeners(addresses), settings.bind_retries)
    except ForkserveError:
        signals.restore(mask)  # a TERM that came meanwhile ends us here, as one asks
        raise
    warn_of_short_queue(listeners)
    return listeners


def _announce(ready_fd: int | None, listeners: Sequence[AnyListener]) -> None:
    addresses = [str(listener) for listener in listeners]
    say_listening(addresses)
    if ready_fd is not None:
        write_ready(addresses, ready_fd)


def _lead(target: str, settings: Settings, superior: Superior) -> int:
    """Be a leader: import the target and serve it; return the exit status."""
    stacks.write_when_asked()
    try:
        make_server(target, settings, superior.kept).run_under(superior)
    except SystemExit:
        log.error("the target's module has forked, and both processes came back: this one ends")
        return 1
    except ListenerDied as error:  # our supervisor may revive what we cannot
        log.debug("%s", error)
        return LISTENER_DIED
    except ForkserveError as error:
        write_traceback(error)
        superior.say_failed(error)
        return error.exit_status
    leave_threads()
    return 0


def make_server(target: str, settings: Settings, kept: Sequence[AnyListener] = ()) -> Server:
    """Import the target and return a server of it; raises TargetError, SettingsError, ListenError.

    What the target's module binds may find its socket among those that were kept.
    """
    with contextlib.ExitStack() as importing:
        if kept:
            from forkserve.stock_binding import giving_kept

            importing.enter_context(giving_kept(kept))
        handler = with_second_chance(lambda: load_target(target))
        hooks = _load_hooks(settings)
        try:
            return Server(
                handler,
                *settings.bind,
                mode=settings.mode,
                workers=settings.workers,
                threads=settings.threads,
                spare=settings.spare,
                connections_per_child=settings.connections_per_child,
                max_connections=settings.max_connections,
                drain_timeout=settings.drain_timeout,
                boot_timeout=settings.boot_timeout,
                connection_timeout=settings.connection_timeout,
                liveness_timeout=settings.liveness_timeout,
                hooks=hooks,
                bind_retries=settings.bind_retries,
                access_log=settings.access_log,
            )
        except TargetError as error:
            raise TargetError(f"target {target!r}: {error}") from error.__cause__


def _load_hooks(settings: Settings) -> Hooks:
    return Hooks(*(_load_hook(name, getattr(settings, name)) for name in Hooks._fields))


def _load_hook(name: str, text: str | None) -> tuple[Any, ...]:
    if not text:
        return ()
    try:
        return (load_target(text, is_beside=True),)
    except TargetError as error:
        raise TargetError(f"--{name.replace('_', '-')}: {error}") from error.__cause__


def write_traceback(error: ForkserveError) -> None:
    """Write where the fault is, if it is in the user's module."""
    if isinstance(error, TargetError | BootError) and error.__cause__ is not None:
        import traceback

        write_line("".join(traceback.format_exception(error.__cause__)).rstrip())
