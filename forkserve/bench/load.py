"""Make load and check every byte that comes back: one process, one wait.

Latencies are kept one by one, so percentiles are exact. At a rate, the time of a request counts
from the moment when it fell due, whether a connection was free by then or not: a server that stalls
is not spared the requests that it has kept from being sent ("coordinated omission", G. Tene), and
one that could not be begun within its patience is unanswered.
"""

import enum
import errno
import fcntl
import heapq
import itertools
import os
import select
import socket
import struct
import termios
from array import array
from dataclasses import dataclass, field
from time import monotonic, process_time

from forkserve.bench.conversation import (
    Converse,
    CutShort,
    EndWriting,
    Pause,
    Read,
    ReadExactly,
    ReadToEnd,
    ReadUntil,
    ScriptError,
    Send,
    Step,
    Talk,
    WrongAnswer,
)
from forkserve.bench.usage import run_delay

CHUNK = 65536
PAUSE_AFTER_REFUSAL = 0.005
PRECISE = 0.0002  # so long before a due moment we do not sleep any more
REFUSED = ("refused", "reset while connecting", "connect timeout")
OUTCOMES = (
    "ok",
    *REFUSED,
    "reset",  # after the connection was made
    "cut short",  # an end before the answer was whole
    "unanswered",
    "wrong answer",
    "other",
)
_NOT_CONNECTED = {
    errno.ECONNREFUSED: "refused",
    errno.EAGAIN: "refused",  # a Unix socket's backlog is full
    errno.ENOENT: "refused",
    errno.ECONNRESET: "reset while connecting",
    errno.EPIPE: "reset while connecting",
    errno.ETIMEDOUT: "connect timeout",
}
_READABLE, _WRITABLE = select.EPOLLIN, select.EPOLLOUT
_FOR_DATAGRAMS = (Send, Read, Pause)
_LOOK = 0.25  # seconds between two looks for those who wait too long


@dataclass(frozen=True, slots=True)
class Order:
    """How much load, and where."""

    address: str  # tcp://, unix://, udp:// or unixgram://
    concurrency: int  # so many connections at a time, at most
    seconds: float
    rate: float = 0.0  # requests a second that fall due; 0: the next one when one has ended
    requests: int = 1  # on one connection; 0: as many as there is time for
    connections: int = 0  # make no more than so many; 0: as many as there is time for
    patience: float = 10.0  # seconds for one connection, or one request on a kept one
    source: str = ""  # the address to connect from, which gives ports of one's own


@dataclass(slots=True)
class Result:
    """What became of the requests of one process."""

    outcomes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(OUTCOMES, 0))
    latencies: "array[float]" = field(default_factory=lambda: array("d"))  # seconds, of good ones
    seconds: float = 0.0
    cpu: float = 0.0  # seconds of this process
    delay: float = 0.0  # seconds that it has waited for a CPU
    complaint: str = ""  # what was wrong with the first wrong answer
    script_error: str = ""
    tally: dict[int, int] = field(default_factory=dict)  # what the conversation has counted


def split_address(address: str) -> tuple[socket.AddressFamily, socket.SocketKind, object]:
    """Return the family, the kind and the socket module's address of one of ours."""
    scheme, _, rest = address.partition("://")
    kind = socket.SOCK_DGRAM if scheme in ("udp", "unixgram") else socket.SOCK_STREAM
    if scheme.startswith("unix"):
        return socket.AF_UNIX, kind, rest
    host, _, port = rest.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return family, kind, (host, int(port))


class _State(enum.Enum):
    CONNECTING = enum.auto()
    TALKING = enum.auto()
    PAUSING = enum.auto()
    IDLE = enum.auto()  # kept, and nothing has fallen due
    CLOSED = enum.auto()


class _Client:
    """One connection on its way through its conversations."""

    __slots__ = ("buffer", "events", "has_heard", "is_used", "latency", "left", "since", "sock",
                 "started", "state", "step", "talk", "unsent")  # fmt: skip

    talk: Talk
    step: Step

    def __init__(self, sock: socket.socket, left: int) -> None:
        self.sock = sock
        self.state = _State.CONNECTING
        self.left = left  # requests that may follow on this connection; negative: any number
        self.since = self.started = 0.0  # when the request fell due, and when it really began
        self.is_used = False  # whether an earlier request was answered on it
        self.latency = 0.0  # of that one
        self.has_heard = False  # whether anything has come since the request began
        self.buffer = bytearray()
        self.unsent = memoryview(b"")
        self.events = 0


class Load:
    """The clients of one process, and what became of them."""

    def __init__(self, order: Order, converse: Converse) -> None:
        self.order = order
        self.converse = converse
        self.result = Result()
        self.family, self.kind, self.target = split_address(order.address)
        self._is_datagram = self.kind == socket.SOCK_DGRAM
        self._poller = select.epoll()
        self._alive: dict[int, _Client] = {}
        self._idle: list[_Client] = []
        self._timers: list[tuple[float, int, _Client]] = []  # the number keeps clients uncompared
        self._kept_out: list[float] = []  # until when clients that could not connect wait
        self._made = self._begun = 0
        self._count = itertools.count()
        self._interval = 1 / order.rate if order.rate else 0.0
        self._first = self._due = self._finish = self._look_at = 0.0
        self._fallen_due = 0
        self._is_stopped = False

    def stop(self, *_: object) -> None:
        """Begin nothing new, and let run() return when the last client is done."""
        self._is_stopped = True

    def run(self) -> Result:
        """Keep the clients busy until the time is up, let them finish, and return the result."""
        now = self._first = self._due = monotonic()
        spent, delayed = process_time(), run_delay(os.getpid())
        self._finish = now + self.order.seconds
        while True:
            self._begin_what_is_due(now)
            if not self._is_going(now):
                self._dismiss_idle()
                if not self._alive:
                    break
            self._wait(now)
            now = monotonic()
            self._end_pauses(now)
            self._give_up_on_the_late(now)
        self._poller.close()
        self.result.seconds = monotonic() - self._first
        self.result.cpu = process_time() - spent
        self.result.delay = run_delay(os.getpid()) - delayed
        self.result.tally = getattr(self.converse, "tally", {})
        return self.result

    def _is_going(self, now: float) -> bool:
        if self._is_stopped or not (self._alive or self._may_connect()):
            return False
        return (self._due if self._interval else now) < self._finish

    def _may_connect(self) -> bool:
        return not self.order.connections or self._made < self.order.connections

    def _has_room(self, now: float) -> bool:
        while self._kept_out and self._kept_out[0] <= now:
            self._kept_out.pop(0)
        return len(self._alive) + len(self._kept_out) < self.order.concurrency

    def _begin_what_is_due(self, now: float) -> None:
        while self._is_going(now):
            since = self._due if self._interval else now
            if since > now:
                return
            if since + self.order.patience < now and self._may_connect():
                self.result.outcomes["unanswered"] += 1
            elif self._idle:
                self._begin_request(self._idle.pop(), since, now)
            elif self._may_connect() and self._has_room(now):
                self._connect(since, now)
            else:
                return
            self._fallen_due += 1
            self._due = self._first + self._fallen_due * self._interval

    def _wait(self, now: float) -> None:
        wake = now + _LOOK
        is_exact = False
        if self._is_going(now):
            wake = min([wake, *self._kept_out[:1]])
            if not self._interval:
                wake = min(wake, self._finish)
            elif self._due > now:
                is_exact = self._due - PRECISE < wake
                wake = min(wake, self._due - PRECISE)
        if self._timers:
            wake = min(wake, self._timers[0][0])
        left = max(0.0, wake - monotonic())
        if is_exact and left:
            select.select([self._poller], (), (), left)  # epoll rounds up to whole milliseconds
            left = 0.0
        for descriptor, _ in self._poller.poll(left, 256):
            client = self._alive.get(descriptor)
            if client is None:
                continue  # ended by an earlier one of these events
            if client.state is _State.IDLE:
                self._end_idle(client)
            elif client.state is _State.CONNECTING:
                self._find_whether_connected(client)
            else:
                self._go_on(client, is_ready=True)

    def _end_idle(self, client: _Client) -> None:
        """End a kept connection, which its server may have ended, and see what it has said."""
        self._idle.remove(client)
        try:
            surplus = client.sock.recv(CHUNK)
        except OSError:
            surplus = b""
        if surplus:  # then its last answer was no good one
            self.result.outcomes["ok"] -= 1
            self.result.latencies.remove(client.latency)
            self._end_wrong(client, f"{len(surplus)} bytes follow the answer")
        else:
            self._close(client)

    def _end_pauses(self, now: float) -> None:
        while self._timers and self._timers[0][0] <= now:
            client = heapq.heappop(self._timers)[2]
            if client.state is _State.PAUSING:
                client.state = _State.TALKING
                if self._next_step(client, None):
                    self._go_on(client, is_ready=False)

    def _give_up_on_the_late(self, now: float) -> None:
        if now < self._look_at:
            return
        self._look_at = now + _LOOK
        for client in list(self._alive.values()):
            if client.started + self.order.patience < now and client.state is not _State.IDLE:
                was_connecting = client.state is _State.CONNECTING
                self._end(client, "connect timeout" if was_connecting else "unanswered")

    def _dismiss_idle(self) -> None:
        while self._idle:
            self._end_idle(self._idle[-1])

    # -- one client

    def _connect(self, since: float, now: float) -> None:
        try:
            sock = socket.socket(self.family, self.kind)
        except OSError as failure:
            return self._do_without(failure, now)
        sock.setblocking(False)
        self._made += 1
        client = _Client(sock, self.order.requests)
        self._alive[sock.fileno()] = client
        client.since, client.started = since, now
        try:
            self._bind(sock)
            error = sock.connect_ex(self.target)  # type: ignore[arg-type]
        except OSError as failure:
            error = failure.errno or errno.EINVAL
        if error not in (0, errno.EINPROGRESS):
            self._end_unconnected(client, error)
        elif error:
            self._watch(client, _WRITABLE)
        else:
            self._begin_request(client, since, now)

    def _do_without(self, error: OSError, now: float) -> None:
        self._complain(f"cannot make a socket: {error.strerror}")
        self.result.outcomes["other"] += 1
        self._kept_out.append(now + PAUSE_AFTER_REFUSAL)

    def _bind(self, sock: socket.socket) -> None:
        if self.order.source and self.family == socket.AF_INET:
            sock.setsockopt(socket.IPPROTO_IP, getattr(socket, "IP_BIND_ADDRESS_NO_PORT", 24), 1)
            sock.bind((self.order.source, 0))
        elif self._is_datagram and self.family == socket.AF_UNIX:
            sock.bind("")  # a name of the kernel's choice, to be answered at

    def _find_whether_connected(self, client: _Client) -> None:
        error = client.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            self._end_unconnected(client, error)
        else:
            self._begin_request(client, client.since, client.started)

    def _end_unconnected(self, client: _Client, error: int) -> None:
        outcome = _NOT_CONNECTED.get(error, "other")
        if outcome == "other":
            self._complain(f"cannot connect: {os.strerror(error)}")
        self._end(client, outcome)

    def _begin_request(self, client: _Client, since: float, now: float) -> None:
        self._begun += 1
        client.left -= 1
        client.has_heard = False
        client.since, client.started = since, now
        client.state = _State.TALKING
        client.talk = self.converse(self._begun)
        if self._next_step(client, None):
            self._go_on(client, is_ready=False)

    def _go_on(self, client: _Client, *, is_ready: bool) -> None:
        """Take the client's steps as far as they go without waiting."""
        try:
            while True:
                step, answer = client.step, None
                if isinstance(step, Send):
                    if not self._send(client):
                        return
                elif isinstance(step, Pause):
                    return self._pause(client, step.seconds)
                elif isinstance(step, EndWriting):
                    client.sock.shutdown(socket.SHUT_WR)
                elif (answer := _take(step, client)) is None:
                    if not is_ready:
                        return self._watch(client, _READABLE)
                    is_ready = False
                    data = client.sock.recv(CHUNK)
                    if self._is_datagram:
                        answer = data
                    elif data:
                        client.buffer += data
                        client.has_heard = True
                        continue
                    elif isinstance(step, ReadToEnd):
                        answer, client.buffer = bytes(client.buffer), bytearray()
                    else:
                        return self._end_early(client)
                if not self._next_step(client, answer):
                    return
        except BlockingIOError:
            self._watch(client, _READABLE)
        except ConnectionRefusedError:  # a datagram's
            self._end(client, "refused")
        except OSError as error:
            self._end_broken(client, error)

    def _end_early(self, client: _Client) -> None:
        """End what the server has ended before its answer was whole."""
        # Its end acknowledges what has reached it until then; a reset for the rest may be late.
        unread = struct.unpack("i", fcntl.ioctl(client.sock, termios.TIOCOUTQ, bytes(4)))[0]
        if unread or client.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._end_broken(client, ConnectionResetError())
        else:
            self._end(client, "cut short")

    def _end_broken(self, client: _Client, error: OSError) -> None:
        """End what is broken, or begin its request again if the server never had it.

        A server may end a kept connection while the next request is on its way, and resets it
        then; one that has read the request and ends shows an orderly end.
        """
        if not isinstance(error, ConnectionError):
            self._complain(os.strerror(error.errno or 0))
            self._end(client, "other")
        elif client.has_heard or not client.is_used:
            self._end(client, "reset")
        else:
            self._close(client)
            self._begun -= 1
            if self._may_connect():
                self._connect(client.since, client.started)

    def _send(self, client: _Client) -> bool:
        """Send what is left, and tell whether that was all."""
        try:
            sent = client.sock.send(client.unsent)
        except BlockingIOError:
            sent = 0
        client.unsent = client.unsent[sent:]
        if not client.unsent:
            return True
        self._watch(client, self._listen_meanwhile(client))
        return False

    def _listen_meanwhile(self, client: _Client) -> int:
        """Read what has come, since a server may go on only then; return what to wait for."""
        if self._is_datagram:
            return _WRITABLE
        try:
            data = client.sock.recv(CHUNK)
        except BlockingIOError:
            return _READABLE | _WRITABLE
        client.buffer += data
        client.has_heard |= bool(data)
        return _READABLE | _WRITABLE if data else _WRITABLE

    def _next_step(self, client: _Client, answer: bytes | None) -> bool:
        """Hear the next step of the conversation; tell whether there is one."""
        try:
            client.step = step = client.talk.send(answer)  # type: ignore[arg-type]
        except StopIteration:
            self._end_request(client)
            return False
        except CutShort:
            self._end(client, "cut short")
            return False
        except WrongAnswer as wrong:
            self._end_wrong(client, str(wrong))
            return False
        except ScriptError as error:
            self._end_scripts(client, str(error))
            return False
        if self._is_datagram and not isinstance(step, _FOR_DATAGRAMS):
            self._end_scripts(client, f"a conversation in datagrams yielded {step!r}")
            return False
        if isinstance(step, Send):
            client.unsent = memoryview(step.data)
        return True

    def _end_request(self, client: _Client) -> None:
        if client.buffer:
            self._end_wrong(client, f"{len(client.buffer)} bytes follow the answer")
        elif client.left == 0:
            self._end(client, "ok")
        else:
            self._count_good(client)
            client.state = _State.IDLE
            client.is_used = True
            self._watch(client, _READABLE)
            self._idle.append(client)

    def _end_wrong(self, client: _Client, complaint: str) -> None:
        self._complain(complaint)
        self._end(client, "wrong answer")

    def _end_scripts(self, client: _Client, error: str) -> None:
        self.result.script_error = self.result.script_error or error
        self._is_stopped = True
        self._end(client, "other")

    def _complain(self, complaint: str) -> None:
        self.result.complaint = self.result.complaint or complaint

    def _pause(self, client: _Client, seconds: float) -> None:
        client.state = _State.PAUSING
        self._watch(client, 0)
        heapq.heappush(self._timers, (monotonic() + seconds, next(self._count), client))

    def _watch(self, client: _Client, events: int) -> None:
        if client.events == events:
            return
        if not client.events:
            self._poller.register(client.sock, events)
        elif not events:
            self._poller.unregister(client.sock)  # else a peer's end would wake us for nothing
        else:
            self._poller.modify(client.sock, events)
        client.events = events

    def _count_good(self, client: _Client) -> None:
        client.latency = monotonic() - client.since
        self.result.outcomes["ok"] += 1
        self.result.latencies.append(client.latency)

    def _end(self, client: _Client, outcome: str) -> None:
        if outcome == "ok":
            self._count_good(client)
        else:
            self.result.outcomes[outcome] += 1
            if outcome in REFUSED:
                self._kept_out.append(monotonic() + PAUSE_AFTER_REFUSAL)
        self._close(client)

    def _close(self, client: _Client) -> None:
        del self._alive[client.sock.fileno()]
        client.state = _State.CLOSED  # a pause of its may still come to its end
        client.sock.close()


def _take(step: Step, client: _Client) -> bytes | None:
    """Take from what has been read what a step wants, if it is all there."""
    buffer = client.buffer
    if isinstance(step, ReadExactly):
        end = step.size
        if len(buffer) < end:
            return None
    elif isinstance(step, ReadUntil):
        at = buffer.find(step.separator)
        if at < 0:
            return None
        end = at + len(step.separator)
    elif isinstance(step, Read) and buffer:
        end = len(buffer)
    else:
        return None
    taken = bytes(buffer[:end])
    del buffer[:end]
    return taken
