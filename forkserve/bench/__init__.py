"""Measure a handler in every mode, and the words in which a script tells what its clients say."""

from forkserve.bench.conversation import (
    CutShort,
    EndWriting,
    Pause,
    Read,
    ReadExactly,
    ReadToEnd,
    ReadUntil,
    Send,
    WrongAnswer,
)

__all__ = [
    "CutShort",
    "EndWriting",
    "Pause",
    "Read",
    "ReadExactly",
    "ReadToEnd",
    "ReadUntil",
    "Send",
    "WrongAnswer",
]
