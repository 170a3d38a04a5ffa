"""What every worker is at and has done, in memory that outlives it.

One anonymous shared mapping, a slot a worker, a record a lane (a thread, a connection's process, or
the worker itself where it serves one at a time). Each field has one writer: the worker its loop's,
whoever serves in a lane that lane's, the leader the rest. Eight-byte words, aligned, so that a
reader never sees half of one.
"""

import mmap
import struct
from collections.abc import Iterator
from typing import NamedTuple

_LINE = 64
_HEADER = _LINE
_SLOT = 2 * _LINE  # the leader's line, the worker's line
_BUCKETS = 144
FIRST_BUCKET = 16  # the word where a record's histogram begins
_RECORD = 8 * (FIRST_BUCKET + _BUCKETS)

# A record's first line: when the connection began (negative: it has ended), until when its handler
# has extended it, its peer.
begin = struct.Struct("=dd46sH").pack_into
BEGAN, EXTENDED, INTERRUPTED, LOST, TIMED_OUT, RAISED, SERVED = 0, 1, 8, 9, 10, 11, 12
_PEER = struct.Struct("=16x46sH")

_UNITS = 4e6  # a second has so many quarters of a microsecond
SAMPLED = 8  # of so many connections one is timed: each of them would cost 4 % of a short one
_LONGEST = (1 << 38) - 1  # of them in the last bucket: 19 hours


class Held(NamedTuple):
    """A connection that is being served, or was when its worker died."""

    lane: int
    began: float
    extended: float
    interrupted: float
    peer: str


class Scoreboard:
    """The slots of one generation: twice as many as workers, for those that replace others."""

    def __init__(self, workers: int, lanes: int) -> None:
        size = _SLOT + lanes * _RECORD
        self.memory = mmap.mmap(-1, _HEADER + 2 * workers * size)
        self.seconds = memoryview(self.memory).cast("d")
        self.counts = memoryview(self.memory).cast("Q")
        self.workers = [Slot(self, _HEADER + n * size, lanes) for n in range(2 * workers)]

    def take_slot(self) -> "Slot":
        """Return a slot that no living worker has; what was counted there stays."""
        return next(slot for slot in self.workers if not slot.pid)

    def count_errors(self) -> dict[str, int]:
        """Return how many ended by each kind of error, in all slots."""
        each = [slot.count_errors() for slot in self.workers]
        return {kind: sum(counts[kind] for counts in each) for kind in each[0]}

    @property
    def naps(self) -> int:
        """How often the leader has begun and ended to sleep without a timer: odd if it does."""
        return self.counts[0]

    @naps.setter
    def naps(self, value: int) -> None:
        self.counts[0] = value


class Slot:
    """One worker's part of the scoreboard."""

    def __init__(self, board: Scoreboard, offset: int, lanes: int) -> None:
        self.memory, self.seconds, self.counts = board.memory, board.seconds, board.counts
        self.lanes = lanes
        self._leaders = offset >> 3
        self.loop = (offset + _LINE) >> 3  # the word that says since when the loop is awake
        self._records = offset + _SLOT

    @property
    def pid(self) -> int:
        """The worker's process id, 0 without one; written by its leader."""
        return self.counts[self._leaders]

    @pid.setter
    def pid(self, value: int) -> None:
        self.counts[self._leaders] = value

    @property
    def awake_since(self) -> float:
        """When the worker's loop came out of its wait, 0 while it is in there."""
        return self.seconds[self.loop]

    @property
    def is_leaving(self) -> bool:
        """Whether the worker was told to stop; written by the worker."""
        return self.counts[self.loop + 2] != 0

    @is_leaving.setter
    def is_leaving(self, value: bool) -> None:
        self.counts[self.loop + 2] = int(value)

    @property
    def used(self) -> int:
        """How many lanes have ever been used; written by the worker."""
        return self.counts[self.loop + 1]

    def record(self, lane: int) -> int:
        """Return the offset of a lane's record, and have it looked at from now on."""
        if lane >= self.used:
            self.counts[self.loop + 1] = lane + 1
        return self._records + lane * _RECORD

    def held(self) -> Iterator[Held]:
        """Yield what is being served."""
        for lane in range(self.used):
            held = self.held_in(lane)
            if held is not None:
                yield held

    def held_in(self, lane: int) -> Held | None:
        """Return what is being served in a lane."""
        word = self._word(lane)
        began = self.seconds[word]
        if began <= 0:
            return None
        host, port = _PEER.unpack_from(self.memory, word << 3)
        extended, interrupted = self.seconds[word + EXTENDED], self.seconds[word + INTERRUPTED]
        name = host.rstrip(b"\0").decode(errors="replace")
        peer = format_inet_peer(name, port) if name else "a Unix socket"
        return Held(lane, began, extended, interrupted, peer)

    def forget_held_in(self, lane: int) -> None:
        """Clear a lane whose process is dead: its successor must not be blamed for it."""
        self.seconds[self._word(lane)] = 0.0

    def last_began(self) -> float:
        """Return when the first lane's last connection began, negative if it has ended."""
        return self.seconds[self._word(0)]

    def forget_held(self) -> None:
        """Clear what a worker held that is dead."""
        for lane in range(self.used):
            self.forget_held_in(lane)
        self.seconds[self.loop] = 0.0
        self.is_leaving = False

    def count_served(self) -> int:
        """Return how many connections and datagrams have been served, by all who had the slot."""
        return sum(self.counts[self._word(lane) + SERVED] for lane in range(self.used))

    def count_errors(self) -> dict[str, int]:
        """Return how many ended because the peer was lost, timed out, or the handler raised."""
        words = [self._word(lane) for lane in range(self.used)]
        kinds = (("lost", LOST), ("timed_out", TIMED_OUT), ("raised", RAISED))
        return {name: sum(self.counts[w + kind] for w in words) for name, kind in kinds}

    def latencies(self) -> list[int]:
        """Return how many of the connections that were timed fell into each bucket."""
        firsts = [self._word(lane) + FIRST_BUCKET for lane in range(self.used)]
        return [sum(self.counts[first + n] for first in firsts) for n in range(_BUCKETS)]

    def _word(self, lane: int) -> int:
        return (self._records + lane * _RECORD) >> 3


def latency_of(bucket: int) -> float:
    """Return the least seconds that fall into a bucket; its width is at most a quarter of it."""
    octave, quarter = divmod(bucket, 4)
    return (((4 + quarter) << octave) - 4) / _UNITS


def observe(counts: memoryview, record: int, seconds: float) -> None:
    """Count a connection that took so long: four buckets an octave, from a microsecond up.

    See latency_of().
    """
    quarters = int(seconds * _UNITS) + 4
    if quarters > _LONGEST:
        quarters = _LONGEST
    bits = quarters.bit_length()  # 3 at least, so the first index is FIRST_BUCKET
    counts[(record >> 3) + 4 * bits + (quarters >> (bits - 3))] += 1


def format_inet_peer(host: str, port: int) -> str:
    """Return a peer's address as log lines show it: an IPv4 one as such, also on a dual stack."""
    host = host.removeprefix("::ffff:")
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
