"""What a client says and hears on its connection, step by step.

A conversation is a generator: it yields steps and is sent what a reading step has read. It makes
no system call, so one process can hold thousands of them.
"""

import enum
import importlib.util
import sys
import traceback
from collections.abc import Callable, Generator
from pathlib import Path
from types import GeneratorType
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
            raise ScriptError(f"--send: there is no file {self.path!r}")
        spec = importlib.util.spec_from_file_location(
            "forkserve_bench_script", Path(self.path).absolute()
        )
        if spec is None or spec.loader is None:
            raise ScriptError(f"{self.path!r} is not a Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        try:
            spec.loader.exec_module(module)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            raise ScriptError(f"{self.path} raised {describe_error(error, self.path)}") from error
        converse = getattr(module, "converse", None)
        if not callable(converse):
            raise ScriptError(f"{self.path} has no function converse(number)")
        self._converse = converse

    def __call__(self, number: int, /) -> Talk:
        """Return the script's conversation; what is wrong with it is raised at its first step."""
        if self._converse is None:
            self.load()
        assert self._converse is not None
        answer = None
        try:
            talk = self._converse(number)
            if not isinstance(talk, GeneratorType):
                raise ScriptError(f"{self.path}: converse(number) is no generator: it has no yield")
            while True:
                step = talk.send(answer)
                if complaint := find_fault(step):
                    raise ScriptError(f"{self.path}{_find_line(talk)} yielded {complaint}")
                answer = yield step
        except StopIteration:
            return
        except (GeneratorExit, CutShort, ScriptError):
            raise
        except (AssertionError, WrongAnswer) as error:
            raise WrongAnswer(
                str(error) or f"assertion failed{_place(error, self.path)}"
            ) from error
        except BaseException as error:
            raise ScriptError(f"{self.path} raised {describe_error(error, self.path)}") from error


def find_fault(step: object) -> str:
    """Return what is wrong with what a script has yielded, or nothing."""
    if not isinstance(step, Step):
        return f"{step!r}, which is no step"
    match step:
        case Send(bytes()) | Read() | ReadToEnd() | EndWriting():
            return ""
        case ReadExactly(int(size)) if size >= 0:
            return ""
        case ReadUntil(bytes(separator)) if separator:
            return ""
        case Pause(int(seconds) | float(seconds)) if seconds >= 0:
            return ""
    return repr(step)


def _find_line(talk: "GeneratorType[Step, bytes, None]") -> str:
    return f" in line {talk.gi_frame.f_lineno}" if talk.gi_frame else ""


def _place(error: BaseException, path: str) -> str:
    """Return the line of a file where an exception passed last, or nothing."""
    lines = [
        number
        for frame, number in traceback.walk_tb(error.__traceback__)
        if frame.f_code.co_filename == str(Path(path).absolute())
    ]
    return f" in line {lines[-1]}" if lines else ""


def describe_error(error: BaseException, path: str) -> str:
    """Return an exception in one line, with the line of the file where it was raised."""
    name = type(error).__name__
    return (f"{name}: {error}" if str(error) else name) + _place(error, path)


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
