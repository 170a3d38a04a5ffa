"""Run a handler on one request: the sole error boundary."""

from time import monotonic
from typing import TYPE_CHECKING

from forkserve.datagram import Datagram, Request
from forkserve.errors import IncompleteRead
from forkserve.handler import Serve
from forkserve.log import log

if TYPE_CHECKING:
    from forkserve.connection import Peer
    from forkserve.stop import Stop


class Inline:
    """Serves each request right here, one at a time: the simplest dispatcher.

    ``dispatch`` is a run_handler that shows in ``current`` what it is at.
    """

    __slots__ = ("current", "dispatch")

    dispatch: Serve

    def __init__(self) -> None:
        self.current: Request | None = None


def make_run_handler(
    serve: Serve,
    close: Serve,
    stop: "Stop",
    lane: Inline | None = None,
    *,
    access_log: bool = False,
) -> Serve:
    """Return run_handler: serve a request, survive whatever that raises, give it to close."""
    lane = lane or Inline()

    def run_handler(request: Request) -> None:
        lane.current = request
        try:
            serve(request)
            if request._buffers is not None and request._buffers.output:
                request.flush_last()
        except BaseException as error:
            report(error, request, stop)
        finally:
            close(request)
            lane.current = None

    def run_handler_and_log(request: Request) -> None:
        peer, begun = request.peer, monotonic()
        run_handler(request)
        log.access("%s served in %.1f ms", format_peer(peer), (monotonic() - begun) * 1000)

    return run_handler_and_log if access_log else run_handler


def make_run_datagram(serve: Serve, stop: "Stop", lane: Inline) -> Serve:
    """Return run_handler for datagrams alone, where there is nothing to close."""

    def run_handler(datagram: Datagram) -> None:
        lane.current = datagram
        try:
            serve(datagram)
        except BaseException as error:
            report(error, datagram, stop)
        lane.current = None

    return run_handler


def report(error: BaseException, request: Request, stop: "Stop") -> None:
    """Say what a handler raised; never raises."""
    try:
        _say(error, request)
    except BaseException as worse:  # what the user raised may raise again when it is shown
        kind, other = type(error).__name__, type(worse).__name__
        log.error("a handler raised %s, and showing that raised %s", kind, other)
    if isinstance(error, MemoryError):
        log.warning("out of memory: this worker leaves when it is done")
        stop.retire()


def _say(error: BaseException, request: Request) -> None:
    peer = format_peer(request.address)
    what = "datagram" if isinstance(request, Datagram) else "connection"
    if isinstance(error, IncompleteRead) or (isinstance(error, OSError) and request.is_lost(error)):
        log.debug("%s from %s ended early: %s: %s", what, peer, type(error).__name__, error)
    elif isinstance(error, TimeoutError) and request.has_timeout():
        log.debug("%s from %s timed out: %s", what, peer, error)
    elif isinstance(error, SystemExit):
        log.warning("handler of %s raised SystemExit(%r): %s closed", peer, error.code, what)
    else:
        log.error("handler of %s raised %s", peer, type(error).__name__, traceback=error)


def format_peer(address: "Peer | None") -> str:
    """Return a peer's address as log lines show it."""
    if isinstance(address, tuple) and len(address) > 1 and isinstance(address[0], str):
        host, port = address[0].removeprefix("::ffff:"), address[1]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return str(address) if address else "a Unix socket"
