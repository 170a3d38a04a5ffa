"""What a client says and hears on its connection, step by step.

A conversation is a generator: it yields steps and is sent what a reading step has read. It makes
no system call, so one process can hold thousands of them.
"""

import enum
import importlib.util
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import NamedTuple, Protocol


class Send(NamedTuple):
    """Send these bytes, all of them."""

    data: bytes


class Read(NamedTuple):
    """Read what comes first: a datagram, or what there is of a stream."""


class ReadExactly(NamedTuple):
    """Read so many bytes."""

    size: int


class ReadUntil(NamedTuple):
    """Read up to a separator, and return it too."""

    separator: bytes


class ReadToEnd(NamedTuple):
    """Read until the server ends the connection."""


class EndWriting(NamedTuple):
    """End our side, and go on reading."""


class Pause(NamedTuple):
    """Do nothing for so many seconds."""

    seconds: float


Step = Send | Read | ReadExactly | ReadUntil | ReadToEnd | EndWriting | Pause
Talk = Generator[Step, bytes, None]


class Converse(Protocol):
    """Begins the conversation of a number; numbers are a client process' own and count up."""

    def __call__(self, number: int, /) -> Talk:
        """Return it."""


class WrongAnswer(Exception):
    """The server answered, but not what it should."""


class CutShort(WrongAnswer):
    """The server ended the connection in the middle of an answer."""


class ScriptError(Exception):
    """A script of the user's cannot be loaded, or raised."""


class Ending(enum.Enum):
    """Who ends a connection when the answer is there."""

    CLIENT = enum.auto()
    SERVER = enum.auto()
    BOTH = enum.auto()  # the server answers when the client has ended its side


class Exchange(NamedTuple):
    """The same bytes there and the same bytes back, every time."""

    question: bytes
    answer: bytes
    ending: Ending = Ending.CLIENT

    @property
    def can_be_repeated(self) -> bool:
        """Whether a connection is good for more than one."""
        return self.ending is Ending.CLIENT

    def __call__(self, number: int, /) -> Talk:
        """Return one exchange."""
        if self.question:
            yield Send(self.question)
        if self.ending is Ending.BOTH:
            yield EndWriting()
        if self.ending is Ending.CLIENT:
            answer = yield ReadExactly(len(self.answer))
        else:
            answer = yield ReadToEnd()
        if answer != self.answer:
            is_cut = self.answer.startswith(answer)
            kind = CutShort if is_cut else WrongAnswer
            raise kind(describe_difference(answer, self.answer))


class DatagramExchange(NamedTuple):
    """One datagram there and one back."""

    question: bytes
    answer: bytes
    can_be_repeated: bool = True

    def __call__(self, number: int, /) -> Talk:
        """Return one exchange."""
        yield Send(self.question)
        answer = yield Read()
        if answer != self.answer:
            raise WrongAnswer(describe_difference(answer, self.answer))


class Script:
    """The conversations of a file of the user's, whose function `converse` begins them."""

    can_be_repeated = True

    def __init__(self, path: str) -> None:
        self.path = path
        self._converse: Callable[[int], Talk] | None = None

    def __reduce__(self) -> tuple[type["Script"], tuple[str]]:
        return Script, (self.path,)  # whoever gets it loads it again

    def load(self) -> None:
        """Run the file; raises ScriptError."""
        if not Path(self.path).is_file():
            raise ScriptError(f"there is no file {self.path!r}")
        spec = importlib.util.spec_from_file_location("forkserve_bench_script", self.path)
        if spec is None or spec.loader is None:
            raise ScriptError(f"{self.path!r} is not a Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException as error:
            raise ScriptError(f"{self.path} raised {describe_error(error)}") from error
        converse = getattr(module, "converse", None)
        if not callable(converse):
            raise ScriptError(f"{self.path} has no function converse(number)")
        self._converse = converse

    def __call__(self, number: int, /) -> Talk:
        """Return the script's conversation; what is wrong with it is raised at its first step."""
        if self._converse is None:
            self.load()
        assert self._converse is not None
        try:
            yield from self._converse(number)
        except CutShort:
            raise
        except (AssertionError, WrongAnswer) as error:
            raise WrongAnswer(str(error) or "an assertion of the script failed") from error
        except Exception as error:
            raise ScriptError(f"{self.path} raised {describe_error(error)}") from error


def describe_error(error: BaseException) -> str:
    """Return an exception in one line, with the line where it was raised last."""
    where = ""
    trace = error.__traceback__
    while trace is not None:
        where = f" in line {trace.tb_lineno}"
        trace = trace.tb_next
    return f"{type(error).__name__}: {error}{where}" if str(error) else type(error).__name__ + where


def describe_difference(answer: bytes, expected: bytes) -> str:
    """Return where an answer is not what was expected."""
    if expected.startswith(answer):
        return f"the answer ends after {len(answer)} of {len(expected)} bytes"
    if answer.startswith(expected):
        return (
            f"the answer goes on after its {len(expected)} bytes: {show(answer[len(expected) :])}"
        )
    at = next(n for n, (a, b) in enumerate(zip(answer, expected, strict=False)) if a != b)
    return f"byte {at} of the answer: expected {show(expected[at:])}, got {show(answer[at:])}"


def show(data: bytes, most: int = 24) -> str:
    """Return the beginning of some bytes for a message."""
    return repr(data[:most])[1:] + ("..." if len(data) > most else "")
