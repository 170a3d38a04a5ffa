"""Which functions run at a start and a stop, in what order, and what comes of what they raise."""

from functools import partial
from typing import Any

import pytest

import forkserve
from forkserve.errors import BootError, TargetError
from forkserve.hooks import Hooks, gather_hooks

called: list[str] = []


@pytest.fixture(autouse=True)
def nothing_called() -> None:
    """Begin with an empty list."""
    called.clear()


def hook(name: str) -> Any:
    """Return a hook that notes its call."""
    return partial(called.append, name)


class WithMethods(forkserve.StreamHandler):
    """Has each hook as a method of its own."""

    @classmethod
    def leader_start(cls) -> None:
        """Note the class that it was called for."""
        called.append(f"leader_start of {cls.__name__}")

    @staticmethod
    def worker_start() -> None:
        """Note the call."""
        called.append("worker_start")

    @classmethod
    def worker_stop(cls) -> None:
        """Note the class that it was called for."""
        called.append(f"worker_stop of {cls.__name__}")


class Inherited(WithMethods):
    """Has them from its base."""


class WithoutOne(WithMethods):
    """Takes one back."""

    worker_start = None  # type: ignore[assignment]


def function(connection: forkserve.Connection) -> None:
    """Be a handler that is no class."""


def run(hooks: Hooks) -> list[str]:
    """Call all of them as a server does, and return what was called."""
    hooks.start_leader()
    hooks.start_worker()
    hooks.stop_worker()
    return called


@pytest.mark.parametrize(
    ("handler", "calls"),
    [
        (
            WithMethods,
            ["leader_start of WithMethods", "worker_start", "worker_stop of WithMethods"],
        ),
        (Inherited, ["leader_start of Inherited", "worker_start", "worker_stop of Inherited"]),
        (WithoutOne, ["leader_start of WithoutOne", "worker_stop of WithoutOne"]),
        (forkserve.StreamHandler, []),
        (function, []),
    ],
)
def test_methods_of_the_handler_class(handler: Any, calls: list[str]) -> None:
    """A handler class has its hooks as class or static methods, its own or inherited; or none."""
    assert run(gather_hooks(handler, Hooks())) == calls


def test_an_instance_is_no_handler_class() -> None:
    """Methods of a server object by such a name are its own affair."""
    assert gather_hooks(WithMethods.__new__(WithMethods), Hooks()) == Hooks()


def test_methods_come_first() -> None:
    """What is given beside the handler is called after the handler's own, in its order."""
    given = Hooks(worker_start=(hook("first"), hook("second")), worker_stop=(hook("last"),))
    gathered = gather_hooks(WithMethods, given)
    gathered.start_worker()
    gathered.stop_worker()
    assert called == ["worker_start", "first", "second", "worker_stop of WithMethods", "last"]


@pytest.mark.parametrize(("place", "name"), [*enumerate(Hooks._fields)])
def test_what_is_not_callable(place: int, name: str) -> None:
    """A hook that cannot be called is refused before anything starts, and is named."""
    given: list[Any] = [(), (), ()]
    given[place] = ("no function",)
    with pytest.raises(TargetError, match=f"{name} 'no function' is no function"):
        gather_hooks(function, Hooks(*given))


def test_a_method_that_is_not_callable() -> None:
    """The same holds for an attribute of the class."""
    kind = type("Odd", (forkserve.StreamHandler,), {"worker_start": 42})
    with pytest.raises(TargetError, match="worker_start 42 is no function"):
        gather_hooks(kind, Hooks())


# -- what a hook raises


def raising(error: BaseException) -> Any:
    """Return a hook that raises."""

    def fails() -> None:
        raise error

    return fails


EVERY_FAULT = [ValueError("no database"), SystemExit(0), KeyboardInterrupt(), GeneratorExit()]


@pytest.mark.parametrize("error", EVERY_FAULT, ids=repr)
@pytest.mark.parametrize("name", ["leader_start", "worker_start"])
def test_a_start_that_raises(name: str, error: BaseException) -> None:
    """Whatever it raises, SystemExit(0) too, is why there is no start; the rest is not called."""
    functions = (hook("before"), raising(error), hook("after"))
    hooks = Hooks(functions, functions)
    start = hooks.start_leader if name == "leader_start" else hooks.start_worker
    with pytest.raises(BootError, match=rf"{name} .*fails raised {type(error).__name__}") as it:
        start()
    assert it.value.__cause__ is error
    assert called == ["before"]


@pytest.mark.parametrize("error", EVERY_FAULT, ids=repr)
def test_worker_stop_raises(error: BaseException, caplog: pytest.LogCaptureFixture) -> None:
    """It is logged with its traceback, and the other hooks have their turn: the stop goes on."""
    Hooks(worker_stop=(raising(error), hook("after"))).stop_worker()
    assert called == ["after"]
    (record,) = caplog.records
    assert f"raised {type(error).__name__}" in record.getMessage()
    assert record.exc_info is not None
    assert record.exc_info[1] is error


# -- the library


def test_hooks_are_public() -> None:
    """Who uses the library passes them as forkserve.Hooks."""
    assert "Hooks" in forkserve.__all__
    assert forkserve.Hooks is Hooks
