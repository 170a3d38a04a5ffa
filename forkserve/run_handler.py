"""Run a handler on one request: the sole error boundary."""

from time import monotonic
from typing import TYPE_CHECKING

from forkserve.datagram import Datagram, Request
from forkserve.errors import IncompleteRead
from forkserve.handler import Serve
from forkserve.log import log
from forkserve.scoreboard import (
    LOST,
    RAISED,
    SAMPLED,
    SERVED,
    TIMED_OUT,
    Slot,
    begin,
    format_inet_peer,
    observe,
)

if TYPE_CHECKING:
    from forkserve.connection import Peer
    from forkserve.stop import Stop


class Inline:
    """Serves each request right here, one at a time: the simplest dispatcher.

    ``dispatch`` is a run_handler that shows in ``current`` what it is at, and in the scoreboard's
    ``record`` since when.
    """

    __slots__ = ("current", "dispatch", "number", "record")

    dispatch: Serve

    def __init__(self, number: int, record: int) -> None:
        self.current: Request | None = None
        self.number = number
        self.record = record


def make_run_handler(
    serve: Serve, close: Serve, stop: "Stop", lane: Inline, slot: Slot, *, access_log: bool = False
) -> Serve:
    """Return run_handler: serve a request, survive whatever that raises, give it to close."""
    memory, seconds, counts = slot.memory, slot.seconds, slot.counts

    def run_handler(request: Request) -> None:
        lane.current = request
        record, address, began = lane.record, request.address, monotonic()
        if address.__class__ is tuple:
            try:
                begin(memory, record, began, 0.0, address[0].encode(), address[1])
            except Exception:  # a server object may call anything an address
                begin(memory, record, began, 0.0, b"", 0)
        else:
            begin(memory, record, began, 0.0, b"", 0)
        try:
            serve(request)
            if request._buffers is not None and request._buffers.output:
                request.flush_last()
        except BaseException as error:
            counts[(record >> 3) + report(error, request, stop)] += 1
        finally:
            close(request)
            lane.current = None
            word = record >> 3
            seconds[word] = -began
            counts[word + SERVED] = served = counts[word + SERVED] + 1
            if not served % SAMPLED:
                observe(counts, record, monotonic() - began)

    def run_handler_and_log(request: Request) -> None:
        peer, begun = request.peer, monotonic()
        run_handler(request)
        log.access("%s served in %.1f ms", format_peer(peer), (monotonic() - begun) * 1000)

    return run_handler_and_log if access_log else run_handler


def make_run_datagram(serve: Serve, stop: "Stop", lane: Inline, slot: Slot) -> Serve:
    """Return run_handler for datagrams alone, where there is nothing to close."""
    seconds, counts = slot.seconds, slot.counts

    def run_handler(datagram: Datagram) -> None:
        lane.current = datagram
        record = lane.record
        seconds[record >> 3] = began = monotonic()
        try:
            serve(datagram)
        except BaseException as error:
            counts[(record >> 3) + report(error, datagram, stop)] += 1
        lane.current = None
        seconds[record >> 3] = -began
        counts[(record >> 3) + SERVED] += 1

    return run_handler


def report(error: BaseException, request: Request, stop: "Stop") -> int:
    """Say what a handler raised, and return what kind of end that is; never raises."""
    kind = RAISED
    try:
        kind = _say(error, request)
    except BaseException as worse:  # what the user raised may raise again when it is shown
        name, other = type(error).__name__, type(worse).__name__
        log.error("a handler raised %s, and showing that raised %s", name, other)
    if isinstance(error, MemoryError):
        log.warning("out of memory: this worker leaves when it is done")
        stop.retire()
    return kind


def _say(error: BaseException, request: Request) -> int:
    peer = format_peer(request.address)
    what = "datagram" if isinstance(request, Datagram) else "connection"
    if isinstance(error, IncompleteRead) or (isinstance(error, OSError) and request.is_lost(error)):
        log.debug("%s from %s ended early: %s: %s", what, peer, type(error).__name__, error)
        return LOST
    if isinstance(error, TimeoutError) and request.has_timeout():
        log.debug("%s from %s timed out: %s", what, peer, error)
        return TIMED_OUT
    if isinstance(error, SystemExit):
        log.warning("handler of %s raised SystemExit(%r): %s closed", peer, error.code, what)
    else:
        log.error("handler of %s raised %s", peer, type(error).__name__, traceback=error)
    return RAISED


def format_peer(address: "Peer | None") -> str:
    """Return a peer's address as log lines show it."""
    if isinstance(address, tuple) and len(address) > 1 and isinstance(address[0], str):
        return format_inet_peer(address[0], address[1])
    return str(address) if address else "a Unix socket"
