"""Measure a handler in every mode, and the words in which a script tells what its clients say."""

from forkserve.bench.conversation import (
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
    "EndWriting",
    "Pause",
    "Read",
    "ReadExactly",
    "ReadToEnd",
    "ReadUntil",
    "Send",
    "WrongAnswer",
]
