"""Functions of the user's that run when a leader or a worker starts, and when a worker stops."""

from collections.abc import Callable
from typing import Any, NamedTuple

from forkserve.errors import BootError, TargetError, describe
from forkserve.log import log

Hook = Callable[[], object]


class Hooks(NamedTuple):
    """In the order in which they are called; a worker's in each worker."""

    leader_start: tuple[Hook, ...] = ()
    worker_start: tuple[Hook, ...] = ()
    worker_stop: tuple[Hook, ...] = ()

    def start_leader(self) -> None:
        """Call leader_start, before any worker is forked; raises BootError if one raises."""
        for hook in self.leader_start:
            try:
                hook()
            except BaseException as error:
                raise BootError(f"leader_start {_name(hook)} raised {describe(error)}") from error

    def start_worker(self) -> None:
        """Call worker_start, before the worker is ready; raises BootError if one raises."""
        for hook in self.worker_start:
            try:
                hook()
            except BaseException as error:
                raise BootError(f"worker_start {_name(hook)} raised {describe(error)}") from error

    def stop_worker(self) -> None:
        """Call worker_stop, when the worker has served its last; never raises."""
        for hook in self.worker_stop:
            try:
                hook()
            except BaseException as error:
                kind = type(error).__name__
                log.error("worker_stop %s raised %s", _name(hook), kind, traceback=error)


def gather_hooks(handler: Any, given: Hooks) -> Hooks:
    """Return the hooks that a handler class has as methods, and those given beside it.

    The methods come first, and are called without arguments: class or static methods. Raises
    TargetError for one that is not callable.
    """
    gathered = []
    for name in Hooks._fields:
        own = getattr(handler, name, None) if isinstance(handler, type) else None
        hooks = (*((own,) if own is not None else ()), *getattr(given, name))
        for hook in hooks:
            if not callable(hook):
                raise TargetError(f"{name} {_name(hook)} is no function")
        gathered.append(hooks)
    return Hooks(*gathered)


def _name(hook: Any) -> str:
    return getattr(hook, "__qualname__", None) or repr(hook)
