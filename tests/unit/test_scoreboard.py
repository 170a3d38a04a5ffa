"""What workers are at, in memory that outlives them: who writes where, and what is read there."""

import os
import signal
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forkserve.errors import IncompleteRead
from forkserve.process.fork import fork
from forkserve.run_handler import Inline, make_run_handler
from forkserve.scoreboard import (
    BEGAN,
    EXTENDED,
    FIRST_BUCKET,
    INTERRUPTED,
    LOST,
    RAISED,
    SERVED,
    TIMED_OUT,
    Held,
    Scoreboard,
    Slot,
    begin,
    latency_of,
    observe,
)
from forkserve.stop import Stop
from tests.unit.conftest import Pair

WORKERS, LANES = 3, 4
EVERY_DURATION = st.floats(0.0, 1e9)
quickly = settings(derandomize=True, deadline=None)


@pytest.fixture
def board() -> Scoreboard:
    """Return one with several workers of several lanes."""
    return Scoreboard(WORKERS, LANES)


@pytest.fixture
def slot(board: Scoreboard) -> Slot:
    """Return one worker's part."""
    return board.take_slot()


def words_of(board: Scoreboard) -> list[int]:
    """Return the number of every word that somebody writes, once for each who does."""
    words = [0]  # the naps
    for slot in board.workers:
        before = list(board.counts)
        slot.pid = 4711
        words += [n for n, word in enumerate(board.counts) if word != before[n]]
        words += [slot.loop, slot.loop + 1]
        for lane in range(LANES):
            words += range(record := slot.record(lane) >> 3, record + SERVED + 1)
            words += buckets_of(board, slot.record(lane))
    return words


def buckets_of(board: Scoreboard, record: int) -> list[int]:
    """Return the words in which observe() counts, from the shortest time to the longest."""
    found = []
    for seconds in (0.0, 1e9):
        before = list(board.counts)
        observe(board.counts, record, seconds)
        found += [n for n, word in enumerate(board.counts) if word != before[n]]
    first, last = found
    return list(range(first, last + 1))


def test_everything_has_a_place_of_its_own(board: Scoreboard) -> None:
    """No two fields share a word, whatever slot and lane they are of, and all are in the memory."""
    words = words_of(board)
    assert len(words) == len(set(words))
    assert min(words) == 0
    assert max(words) < len(board.counts)


def test_what_was_written_is_read(board: Scoreboard) -> None:
    """Written all over, each slot gives back its own."""
    for number, slot in enumerate(board.workers):
        slot.pid = number + 1
        slot.seconds[slot.loop] = number + 0.5
        for lane in range(LANES):
            record = slot.record(lane)
            begin(slot.memory, record, 10 * number + lane + 1.0, 7.0, b"192.0.2.%d" % number, lane)
            slot.seconds[(record >> 3) + INTERRUPTED] = float(lane)
            slot.counts[(record >> 3) + LOST] = number
            observe(slot.counts, record, 0.001)
    board.naps = 99
    for number, slot in enumerate(board.workers):
        assert (slot.pid, slot.awake_since, slot.used) == (number + 1, number + 0.5, LANES)
        assert list(slot.held()) == [
            Held(lane, 10 * number + lane + 1.0, 7.0, float(lane), f"192.0.2.{number}:{lane}")
            for lane in range(LANES)
        ]
        assert sum(slot.latencies()) == LANES
        assert slot.count_errors() == {"lost": LANES * number, "timed_out": 0, "raised": 0}
    assert board.naps == 99


def test_words_are_aligned(board: Scoreboard) -> None:
    """A record begins at a cache line, so that no reader sees half of a word."""
    offsets = [slot.record(lane) for slot in board.workers for lane in range(LANES)]
    assert {offset % 64 for offset in offsets} == {0}
    assert len({slot.loop * 8 // 64 for slot in board.workers}) == len(board.workers)


def test_a_leader_and_its_worker_do_not_share_a_line(board: Scoreboard) -> None:
    """What the leader writes is not in a line that the worker writes at every turn."""
    for slot in board.workers:
        before = list(board.counts)
        slot.pid = 4711
        (word,) = [n for n, value in enumerate(board.counts) if value != before[n]]
        assert word * 8 // 64 != slot.loop * 8 // 64


def test_a_lane_that_was_never_used_is_not_looked_at(slot: Slot) -> None:
    """A worker with room for a thousand threads costs nobody a thousand looks."""
    assert slot.used == 0
    slot.record(1)
    assert slot.used == 2
    slot.record(0)
    assert slot.used == 2
    assert list(slot.held()) == []


# -- slots


def test_a_slot_is_free_when_its_worker_is_gone(board: Scoreboard) -> None:
    """Nobody is given a slot that a living worker has; a dead one's is used again."""
    taken = []
    for pid in range(1, 2 * WORKERS + 1):
        slot = board.take_slot()
        slot.pid = pid
        taken.append(slot)
    assert len({id(slot) for slot in taken}) == 2 * WORKERS
    taken[2].pid = 0
    assert board.take_slot() is taken[2]


# -- how long connections took


def bucket(seconds: float) -> int:
    """Return the place among the buckets that counts such a time; all else stays as it was."""
    board = Scoreboard(1, 3)
    slot = board.take_slot()
    record = slot.record(1)
    observe(board.counts, record, seconds)
    (word,) = [
        number for number, count in enumerate(board.counts) if count and number != slot.loop + 1
    ]
    assert board.counts[word] == 1
    assert (record >> 3) + FIRST_BUCKET <= word < slot.record(2) >> 3
    return word - (record >> 3) - FIRST_BUCKET


@given(EVERY_DURATION)
@quickly
def test_every_duration_has_a_bucket(seconds: float) -> None:
    """However short or long: one bucket, in its own record."""
    assert bucket(seconds) >= 0


@pytest.mark.parametrize("seconds", [0.0, 1e-9, 1e-6, 1.0, 68719.0, 68720.0, 1e9, 1e18])
def test_the_ends_of_the_scale(seconds: float) -> None:
    """What is shorter than the first bucket counts there, what is longer than the last one too."""
    assert 0 <= bucket(seconds) <= 143


def test_the_scale_is_used_from_end_to_end() -> None:
    """The shortest time is in the first bucket, and the longest in the last of the record."""
    assert (bucket(0.0), bucket(1e9)) == (0, 143)


@given(EVERY_DURATION, EVERY_DURATION)
@quickly
def test_longer_is_never_counted_as_shorter(one: float, other: float) -> None:
    """Buckets are in the order of the times."""
    short, long = sorted([one, other])
    assert bucket(short) <= bucket(long)


@given(st.floats(0.0, 60_000.0), st.floats(0.0, 0.5))
@quickly
def test_four_buckets_an_octave(seconds: float, more: float) -> None:
    """Two times in one bucket differ by a quarter at most, or by a microsecond."""
    longer = seconds * (1 + more)
    is_one = bucket(seconds) == bucket(longer)
    assert not is_one or longer <= seconds * 1.25 + 1e-6


@given(EVERY_DURATION)
@quickly
def test_a_bucket_tells_what_is_in_it(seconds: float) -> None:
    """A time lies between the least of its bucket and that of the next; the last has no end."""
    slot = Scoreboard(1, 1).take_slot()
    observe(slot.counts, slot.record(0), seconds)
    bucket = slot.latencies().index(1)
    assert latency_of(bucket) <= seconds + 1e-6
    assert seconds < latency_of(bucket + 1) + 1e-6 or bucket == len(slot.latencies()) - 1


@given(st.lists(EVERY_DURATION, max_size=20))
@quickly
def test_all_that_was_served_is_counted(durations: list[float]) -> None:
    """As many as there were."""
    slot = Scoreboard(1, 1).take_slot()
    record = slot.record(0)
    for seconds in durations:
        observe(slot.counts, record, seconds)
    assert sum(slot.latencies()) == len(durations)


# -- who is being served


@pytest.mark.parametrize(
    ("host", "port", "shown"),
    [
        (b"192.0.2.7", 4711, "192.0.2.7:4711"),
        (b"255.255.255.255", 65535, "255.255.255.255:65535"),
        (b"::ffff:192.0.2.7", 80, "192.0.2.7:80"),
        (b"2001:db8::1", 80, "[2001:db8::1]:80"),
        (
            b"ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe",
            1,
            "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe]:1",
        ),
        (b"", 0, "a Unix socket"),
        (b"\xff", 1, "\ufffd:1"),
    ],
)
def test_a_peer_is_shown(host: bytes, port: int, shown: str, slot: Slot) -> None:
    """As in every other line of the log."""
    begin(slot.memory, slot.record(0), 1.0, 0.0, host, port)
    assert [held.peer for held in slot.held()] == [shown]


def test_what_has_ended_is_not_held(slot: Slot) -> None:
    """A negative moment is the last connection's, which has ended."""
    begin(slot.memory, slot.record(0), 5.0, 0.0, b"192.0.2.7", 1)
    assert slot.held_in(0) is not None
    slot.seconds[(slot.record(0) >> 3) + BEGAN] = -5.0
    assert slot.held_in(0) is None
    assert slot.last_began() == -5.0


def test_the_next_connection_has_nothing_of_the_last(slot: Slot) -> None:
    """Its extension is its own, and its peer's name is not a longer one's end."""
    begin(slot.memory, slot.record(0), 5.0, 99.0, b"2001:db8:1234:5678:9abc:def0:1234:5678", 1)
    begin(slot.memory, slot.record(0), 6.0, 0.0, b"::1", 2)
    assert slot.held_in(0) == Held(0, 6.0, 0.0, 0.0, "[::1]:2")


def test_what_a_dead_worker_held_is_forgotten_and_what_it_counted_is_not(slot: Slot) -> None:
    """Its successor is blamed for nothing, and goes on counting."""
    begin(slot.memory, slot.record(1), 5.0, 0.0, b"", 0)
    slot.seconds[slot.loop] = 5.0
    observe(slot.counts, slot.record(1), 1.0)
    slot.forget_held()
    assert (list(slot.held()), slot.awake_since, sum(slot.latencies())) == ([], 0.0, 1)


# -- a process of its own


def run_and_kill(act: Callable[[], None]) -> None:
    """Do something in a child, and kill that when it is done."""
    reader, writer = os.pipe()

    def child() -> int:
        act()
        os.write(writer, b"!")
        signal.pause()
        return 0

    pid = fork(child, lambda: None)
    os.close(writer)
    said = os.read(reader, 1)
    os.close(reader)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert said == b"!"


def test_what_a_worker_wrote_outlives_it(slot: Slot) -> None:
    """A worker that is killed leaves what it was at, and what it has counted, to its parent."""

    def work() -> None:
        slot.seconds[slot.loop] = 123.0
        observe(slot.counts, slot.record(2), 0.5)
        begin(slot.memory, slot.record(2), 456.0, 0.0, b"::1", 4711)

    run_and_kill(work)
    assert slot.awake_since == 123.0
    assert list(slot.held()) == [Held(2, 456.0, 0.0, 0.0, "[::1]:4711")]
    assert sum(slot.latencies()) == 1


def test_one_child_sees_what_another_wrote(slot: Slot) -> None:
    """All who were forked from one parent share the memory, not copies of it."""
    record = slot.record(0)
    for _ in range(3):
        run_and_kill(lambda: observe(slot.counts, record, 0.5))
    assert sum(slot.latencies()) == 3


# -- run_handler writes it


def run_on(
    slot: Slot, request: Any, serve: Callable[[Any], None], close: Callable[[Any], None]
) -> Inline:
    """Serve one request in the first lane, and return the lane."""
    lane = Inline(0, slot.record(0))
    make_run_handler(serve, close, Stop(), lane, slot)(request)
    return lane


@pytest.mark.parametrize(
    ("address", "peer"),
    [
        (("192.0.2.7", 4711), "192.0.2.7:4711"),
        (("2001:db8::1", 4711, 0, 0), "[2001:db8::1]:4711"),
        ("", "a Unix socket"),
        ("/tmp/client.sock", "a Unix socket"),
        (None, "a Unix socket"),
    ],
)
def test_a_handler_is_seen_at_work(address: Any, peer: str, slot: Slot, pair: Pair) -> None:
    """While it serves, its peer and since when are shown; afterwards one more is counted."""
    connection, _ = pair
    connection.address = address
    seen: list[Held] = []
    lane = run_on(slot, connection, lambda _: seen.extend(slot.held()), lambda _: None)
    assert [held.peer for held in seen] == [peer]
    assert list(slot.held()) == []
    assert slot.last_began() == -seen[0].began
    assert (slot.count_served(), lane.current) == (1, None)


@pytest.mark.parametrize(
    "address",
    [
        (),
        ("host",),
        ("host", "80"),
        ("host", None),
        ("host", -1),
        ("host", 1 << 20),
        (b"host", 80),
        (None, 80),
        (7, 80),
        ("\udcff", 80),
        (("a", "b"), 80),
    ],
    ids=repr,
)
def test_an_odd_address_is_served_like_any_other(address: Any, slot: Slot, pair: Pair) -> None:
    """A server object's get_request may call a peer what it likes (run_handler is the boundary)."""
    connection, _ = pair
    connection.address = address
    served: list[Any] = []
    closed: list[Any] = []
    run_on(slot, connection, served.append, closed.append)
    assert (served, closed) == ([connection], [connection])
    assert slot.count_served() == 1


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (IncompleteRead(b"", "a line"), "lost"),
        (TimeoutError(), "timed_out"),
        (ValueError(), "raised"),
        (SystemExit(1), "raised"),
        (KeyboardInterrupt(), "raised"),
    ],
    ids=repr,
)
def test_how_a_connection_ended_is_counted(
    error: BaseException, kind: str, slot: Slot, pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    """By whose fault: the peer's, nobody's, the handler's; it was served all the same."""
    connection, _ = pair
    connection.settimeout(5)

    def serve(request: Any) -> None:
        raise error

    run_on(slot, connection, serve, lambda _: None)
    assert slot.count_errors() == {"lost": 0, "timed_out": 0, "raised": 0} | {kind: 1}
    assert slot.count_served() == 1


def test_a_peer_that_went_away_is_counted_as_lost(slot: Slot, pair: Pair) -> None:
    """Whatever the handler's own code calls the error."""
    connection, client = pair
    client.close()

    def serve(request: Any) -> None:
        raise ConnectionResetError

    run_on(slot, connection, serve, lambda _: None)
    assert slot.count_errors() == {"lost": 1, "timed_out": 0, "raised": 0}


def test_counters_are_words_of_their_own() -> None:
    """What run_handler adds to is none of what the connection's beginning writes."""
    names = SimpleNamespace(began=BEGAN, extended=EXTENDED, interrupted=INTERRUPTED)
    assert len({*vars(names).values(), LOST, TIMED_OUT, RAISED}) == 6
    assert begin(bytearray(64), 0, 1.0, 0.0, b"x" * 99, 65535) is None
