"""Let other people's load generators speak, and believe them only where they saw no fault."""

import contextlib
import csv
import http.client
import io
import re
import resource
import signal
import socket
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic

from benchmarks.peers_wsgi import ANSWER
from forkserve.bench.rounds import LoadFailed, Turn
from forkserve.bench.server import Server
from forkserve.bench.usage import cpu_seconds, memory, tree

UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}
TESTS = ("PING_INLINE", "SET", "GET")
PATH = "/answer.txt"
PATIENCE = 30.0
PATIENCE_WITH_READY = 10.0
MORE_TIME = 5.0


class NothingHeard(LoadFailed):
    """There was no fault and no answer either: maybe the tool had not yet begun."""


@dataclass(frozen=True, slots=True)
class Heard:
    """What a tool says of a turn without a fault; times in seconds."""

    requests: int
    seconds: float
    p50: float
    p99: float


@dataclass(frozen=True, slots=True)
class Figures:
    """What one server did in one turn, whoever made the load."""

    cpu_each: float  # seconds of the server's whole tree for one request
    throughput: float
    p50: float
    p99: float
    memory: int
    generator: float  # how much of its time the load generator was on a CPU


def from_turn(turn: Turn) -> Figures:
    """Return the figures of a turn of our own load."""
    return Figures(turn.cpu_each, turn.throughput, turn.p50, turn.p99, turn.memory, turn.generator)


def parse_wrk(said: str, connections: int, *, are_kept: bool) -> Heard:
    """Return wrk's figures; raises LoadFailed for any error, or where connections were starved."""
    for fault in ("Socket errors", "Non-2xx"):
        if found := re.search(rf"{fault}.*", said):
            raise LoadFailed(found[0].strip())
    average = _time_after(r"Latency\s+", said)
    whole = re.search(r"(\d+) requests in (\S+),", said)
    if not whole or not int(whole[1]):
        raise NothingHeard("wrk saw no answer")
    heard = Heard(
        int(whole[1]),
        to_seconds(whole[2]),
        _time_after(r"50%\s+", said),
        _time_after(r"99%\s+", said),
    )
    # Little's law: each of the kept connections has one request under way at any moment.
    under_way = average * heard.requests / heard.seconds
    if are_kept and under_way < connections / 2:
        raise LoadFailed(f"{under_way:.1f} of {connections} kept connections served, others waited")
    return heard


def to_seconds(text: str) -> float:
    """Return a time as wrk writes it in seconds."""
    found = re.fullmatch(r"([\d.]+)(us|ms|s|m)", text)
    if not found:
        raise LoadFailed(f"wrk wrote a time {text!r}")
    return float(found[1]) * UNITS[found[2]]


def _time_after(pattern: str, said: str) -> float:
    found = re.search(rf"^\s*{pattern}([\d.]+(?:us|ms|s|m))\b", said, re.MULTILINE)
    if not found:
        raise LoadFailed(f"wrk did not write what follows {pattern!r}")
    return to_seconds(found[1])


def parse_redis_benchmark(said: str, requests: int) -> Heard:
    """Return what all tests took, and the latency of the slowest; raises LoadFailed."""
    rows = {row["test"]: row for row in csv.DictReader(io.StringIO(said)) if row.get("test")}
    try:
        tests = [rows[name] for name in TESTS]
        seconds = sum(requests / float(row["rps"]) for row in tests)
        p50, p99 = (max(float(row[f"{p}_latency_ms"]) for row in tests) for p in ("p50", "p99"))
    except (KeyError, ValueError, TypeError, ZeroDivisionError) as error:
        raise LoadFailed(f"redis-benchmark wrote no figures for every test: {error!r}") from None
    return Heard(requests * len(TESTS), seconds, p50 / 1e3, p99 / 1e3)


def drive_http(
    server: Server,
    cpu: int,
    connections: int,
    seconds: float,
    *,
    are_kept: bool,
    is_weighed: bool = True,
) -> Figures:
    """Let wrk ask for the answer, on kept connections or a new one each time."""
    header = [] if are_kept else ["-H", "Connection: close"]
    url = f"http://127.0.0.1:{server.port}{PATH}"
    # It knows whole seconds only, but sums up when it is interrupted.
    command = ["wrk", "-t1", f"-c{connections}", "-d1h", "--latency", *header, url]

    def parse(said: str) -> Heard:
        return parse_wrk(said, connections, are_kept=are_kept)

    def take(seconds: float) -> Figures:
        return take_turn(
            server, command, cpu, seconds, parse, is_endless=True, is_weighed=is_weighed
        )

    try:
        return take(seconds)
    except NothingHeard:  # on a busy machine its start may take so long
        return take(seconds + MORE_TIME)


def drive_redis(
    server: Server, cpu: int, connections: int, requests: int, *, is_weighed: bool = True
) -> Figures:
    """Let redis-benchmark ping, set and get."""
    command = ["redis-benchmark", "-h", "127.0.0.1", "-p", str(server.port), "--csv"]
    command += ["-t", "ping_inline,set,get", "-n", str(requests), "-c", str(connections)]

    def parse(said: str) -> Heard:
        return parse_redis_benchmark(said, requests)

    return take_turn(server, command, cpu, requests / 1e5, parse, is_weighed=is_weighed)


def take_turn(
    server: Server,
    command: Sequence[str],
    cpu: int,
    look_after: float,
    parse: Callable[[str], Heard],
    *,
    is_endless: bool = False,
    is_weighed: bool = True,
) -> Figures:
    """Run a tool on a CPU and measure the server meanwhile, its memory too unless told not to."""
    members = len(tree(server.pid))
    before, by_tool = cpu_seconds(server.pid), _cpu_of_children()
    pinned = ["taskset", "-c", str(cpu), *command]
    said, held = run_beside(
        server, pinned, look_after, is_endless=is_endless, is_weighed=is_weighed
    )
    by_tool = _cpu_of_children() - by_tool
    server.settle(members)
    spent, heard = cpu_seconds(server.pid) - before, parse(said)
    return Figures(
        cpu_each=spent / heard.requests,
        throughput=heard.requests / heard.seconds,
        p50=heard.p50,
        p99=heard.p99,
        memory=held,
        generator=by_tool / heard.seconds,
    )


def run_beside(
    server: Server,
    command: Sequence[str],
    look_after: float,
    *,
    is_endless: bool,
    is_weighed: bool = True,
) -> tuple[str, int]:
    """Return what a tool writes, and the server's memory so many seconds after its start.

    One that is endless is interrupted then. Memory that is not weighed is 0.
    """
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):  # as it should be: load is on
                process.wait(look_after)
            held = memory(server.pid) if is_weighed else 0
            if is_endless:
                process.send_signal(signal.SIGINT)
            said, complaint = process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            raise LoadFailed(f"the clients wait for ever ({PATIENCE:g} s)") from None
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        raise LoadFailed(f"the tool ended with {process.returncode}: {complaint.strip()}")
    return said, held


def require_answer(server: Server, *, is_kept: bool) -> None:
    """Raise LoadFailed unless the answer is right, and the connection then as it should be."""
    look_at_answer(connect(server), is_kept=is_kept)


def look_at_answer(sock: socket.socket, *, is_kept: bool) -> None:
    """Ask once on a connection, close it, and raise LoadFailed for what is not as it should be."""
    closes, status, body = ask_once(sock, is_kept=is_kept)
    if (status, body) != (200, ANSWER):
        raise LoadFailed(f"a wrong answer: {status} {body[:80]!r}")
    if closes is is_kept:
        raise LoadFailed("it closes the connection" if closes else "it keeps the connection")


def connect(server: Server) -> socket.socket:
    """Return a connection; some say that they are ready a little before they are."""
    deadline = monotonic() + PATIENCE_WITH_READY
    while True:
        try:
            return socket.create_connection(("127.0.0.1", server.port), PATIENCE_WITH_READY)
        except OSError as error:
            if server.ends_within(0.01) or monotonic() > deadline:
                raise LoadFailed(f"no connection: {error}") from None


def ask_once(sock: socket.socket, *, is_kept: bool) -> tuple[bool, int, bytes]:
    """Return whether the server closes after its answer, the status and the body."""
    client = http.client.HTTPConnection("127.0.0.1")
    client.sock = sock
    with sock:
        try:
            client.request("GET", PATH, headers={} if is_kept else {"Connection": "close"})
            answer = client.getresponse()
            return answer.will_close, answer.status, answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise LoadFailed(f"no answer: {error!r}") from None


def _cpu_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
