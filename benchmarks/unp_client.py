"""What a client of the book says to a server, and its count of who has answered."""

from collections import Counter
from typing import NamedTuple

from benchmarks.unp_designs import ID_SIZE, PATTERN
from forkserve.bench.conversation import (
    ReadToEnd,
    ReadUntil,
    Send,
    Talk,
    WrongAnswer,
    describe_difference,
)


class Ask(NamedTuple):
    """Ask for so many bytes, check every one of them, and count who answers."""

    size: int
    tally: Counter[int]  # connections by who has served them

    def __call__(self, number: int, /) -> Talk:
        """Return one connection's conversation."""
        yield Send(b"%d\n" % self.size)
        who = yield ReadUntil(b"\n")
        if len(who) != ID_SIZE or not who[:-1].isdigit():
            raise WrongAnswer(f"the answer begins with {who[:ID_SIZE]!r}, which is no id")
        rest = yield ReadToEnd()
        expected = PATTERN[: self.size - ID_SIZE]
        if rest != expected:
            raise WrongAnswer(describe_difference(rest, expected))
        self.tally[int(who)] += 1
