"""Conversations: what a client says, and what it makes of what it hears."""

import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forkserve.bench.conversation import (
    CutShort,
    DatagramExchange,
    Ending,
    EndWriting,
    Exchange,
    Read,
    ReadExactly,
    ReadToEnd,
    Script,
    ScriptError,
    Send,
    Talk,
    WrongAnswer,
    describe_difference,
    find_fault,
    show,
)


def hear(talk: Talk, answer: bytes) -> None:
    """Go on to the step that reads, and let the conversation hear an answer to its end."""
    while isinstance(next(talk), Send | EndWriting):
        pass
    with pytest.raises(StopIteration):
        talk.send(answer)


@pytest.mark.parametrize(
    ("ending", "steps"),
    [
        (Ending.CLIENT, [Send(b"ping"), ReadExactly(4)]),
        (Ending.SERVER, [Send(b"ping"), ReadToEnd()]),
        (Ending.BOTH, [Send(b"ping"), EndWriting(), ReadToEnd()]),
    ],
)
def test_exchange_reads_as_it_ends(ending: Ending, steps: list[object]) -> None:
    """Who ends the connection decides how the answer is read."""
    talk = Exchange(b"ping", b"pong", ending)(1)
    assert [next(talk) for _ in steps] == steps
    with pytest.raises(StopIteration):
        talk.send(b"pong")


def test_exchange_without_a_question_only_reads() -> None:
    """Where the server speaks unasked nothing is sent."""
    assert next(Exchange(b"", b"Monday")(1)) == ReadExactly(6)


def test_only_what_the_client_ends_can_be_repeated() -> None:
    """A connection that the server ends is good for one exchange."""
    assert [Exchange(b"", b"", ending).can_be_repeated for ending in Ending] == [True, False, False]


@given(st.binary(max_size=20), st.binary(max_size=20))
def test_only_the_right_answer_is_right(expected: bytes, answer: bytes) -> None:
    """Every answer but the right one is wrong or cut short."""
    talk = Exchange(b"", expected, Ending.SERVER)(1)
    if answer == expected:
        hear(talk, answer)
        return
    next(talk)
    with pytest.raises(WrongAnswer) as caught:
        talk.send(answer)
    assert isinstance(caught.value, CutShort) == expected.startswith(answer)


@given(st.binary(max_size=20), st.binary(max_size=20))
def test_only_the_right_datagram_is_right(expected: bytes, answer: bytes) -> None:
    """A datagram is the right one or a wrong one."""
    talk = DatagramExchange(b"ping", expected)(1)
    assert next(talk) == Send(b"ping")
    assert next(talk) == Read()
    with pytest.raises(StopIteration if answer == expected else WrongAnswer):
        talk.send(answer)


@pytest.mark.parametrize(
    ("answer", "expected", "told"),
    [
        (b"", b"pong", "the answer ends after 0 of 4 bytes"),
        (b"pon", b"pong", "the answer ends after 3 of 4 bytes"),
        (b"pong!", b"pong", "the answer goes on after its 4 bytes: '!'"),
        (b"gong", b"pong", "byte 0 of the answer: expected 'pong', got 'gong'"),
        (b"ponG", b"pong", "byte 3 of the answer: expected 'g', got 'G'"),
        (b"x" * 99, b"y", "byte 0 of the answer: expected 'y', got 'xxxxxxxxxxxxxxxxxxxxxxxx'..."),
    ],
)
def test_difference_is_told(answer: bytes, expected: bytes, told: str) -> None:
    """Where an answer is wrong is told, and what is there instead."""
    assert describe_difference(answer, expected) == told


def test_long_bytes_are_shown_by_their_beginning() -> None:
    """A message stays short."""
    assert show(b"\x00" * 24) == repr(b"\x00" * 24)[1:]
    assert show(b"a" * 25) == "'aaaaaaaaaaaaaaaaaaaaaaaa'..."


@pytest.mark.parametrize("step", [Send(b""), Read(), ReadExactly(0), ReadToEnd(), EndWriting()])
def test_good_steps_have_no_fault(step: object) -> None:
    """What can be done is no fault."""
    assert find_fault(step) == ""


def test_script_is_loaded_again_by_whoever_gets_it(tmp_path: Path) -> None:
    """A script goes to another process by its path, loaded or not."""
    path = tmp_path / "talk.py"
    path.write_text("from forkserve.bench.conversation import *\n"
                    "def converse(n):\n    yield Send(b'%d' % n)\n")  # fmt: skip
    one = Script(str(path))
    one.load()
    assert next(pickle.loads(pickle.dumps(one))(7)) == Send(b"7")


def test_dataclasses_of_a_script_find_their_module(tmp_path: Path) -> None:
    """A script may hold what looks its own module up."""
    path = tmp_path / "talk.py"
    path.write_text("from __future__ import annotations\nimport dataclasses\n"
                    "@dataclasses.dataclass\nclass A:\n    n: int\n"
                    "def converse(n):\n    yield\n")  # fmt: skip
    Script(str(path)).load()


def test_interrupt_while_loading_is_no_fault_of_the_script(tmp_path: Path) -> None:
    """Ctrl-C while a script loads is the user's."""
    path = tmp_path / "talk.py"
    path.write_text("raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        Script(str(path)).load()


def test_script_that_is_a_folder_is_no_file(tmp_path: Path) -> None:
    """What is no file is told of before anything runs."""
    with pytest.raises(ScriptError, match="there is no file"):
        Script(str(tmp_path)).load()


def test_unfinished_script_is_closed_quietly(tmp_path: Path) -> None:
    """A conversation that is given up runs its cleanup, and is no error."""
    path = tmp_path / "talk.py"
    path.write_text(
        "from forkserve.bench.conversation import *\n"
        "def converse(n):\n"
        "    try:\n"
        "        yield Read()\n"
        "    finally:\n"
        f"        open({str(tmp_path / 'closed')!r}, 'w').close()\n"
    )
    talk = Script(str(path))(1)
    next(talk)
    talk.close()
    assert (tmp_path / "closed").exists()
