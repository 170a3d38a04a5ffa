"""The comparison with other servers counts only what went well, and says what it leaves out."""

import json
import math
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import peers, peers_catalogue, peers_tools
from benchmarks.peers import Comparison, Found
from benchmarks.peers_catalogue import Need, Peer
from benchmarks.peers_tools import Figures
from benchmarks.peers_wsgi import ANSWER
from benchmarks.report import Report
from forkserve.bench.rounds import LoadFailed
from forkserve.bench.server import Server
from tests.support.requirements import requires
from tests.support.server import ROOT

WRK = """\
Running 1s test @ http://127.0.0.1:8000/
  1 threads and 32 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     3.20ms  683.51us   8.81ms   83.27%
    Req/Sec    14.17k     1.52k   17.25k    70.00%
  Latency Distribution
     50%    890.00us
     75%    1.16ms
     90%    1.55ms
     99%    1.50s
  10000 requests in 1.00s, 1.73MB read
Requests/sec:  10000.00
Transfer/sec:      1.73MB
"""
REDIS = """\
"test","rps","avg_latency_ms","min_latency_ms","p50_latency_ms","p95_latency_ms","p99_latency_ms","max_latency_ms"
"PING_INLINE","1000.00","0.1","0.1","0.100","0.2","0.300","0.4"
"SET","500.00","0.1","0.1","0.200","0.2","0.900","1.0"
"GET","1000.00","0.1","0.1","0.150","0.2","0.250","0.4"
"""
CPU = min(os.sched_getaffinity(0))
MISSING = Need("nothing", "pip install nothing", lambda: False)


def figures(cpu: float, generator: float = 0.5) -> Figures:
    """Return a turn that cost so many seconds a request."""
    return Figures(cpu, 1000.0, 0.001, 0.002, 1_000_000, generator)


def comparison(*names: str) -> Comparison:
    """Return one with these servers, against the first."""
    servers = tuple(Peer(name, [name]) for name in names)
    return Comparison(
        "Title", "request", names[0], servers, lambda server, is_weighed: figures(1.0)
    )


def shown(found: Found) -> str:
    """Return the table of what was found, as text."""
    ratios = peers.compare(found.turns, "forkserve a")
    return peers.tabulate(comparison("forkserve a", "b"), found, ratios).as_text()


def test_wrk_is_understood_in_all_its_units() -> None:
    """Requests, the seconds they took, and two percentiles."""
    heard = peers_tools.parse_wrk(WRK, 32, are_kept=True)
    assert astuple(heard) == pytest.approx((10_000, 1.0, 890e-6, 1.5))


@pytest.mark.parametrize(
    ("before", "after", "complaint"),
    [
        ("Requests/sec", "  Socket errors: connect 0, read 1, write 0, timeout 0\nReq", "read 1"),
        ("Requests/sec", "  Non-2xx or 3xx responses: 7\nReq", "responses: 7"),
        ("10000 requests", "0 requests", "no answer"),
        ("     99%", "     98%", "99%"),
        ("1.00s,", "soon,", "'soon'"),
    ],
)
def test_wrk_that_saw_a_fault_has_no_figures(before: str, after: str, complaint: str) -> None:
    """Neither has one whose output is not what we know."""
    with pytest.raises(LoadFailed, match=complaint):
        peers_tools.parse_wrk(WRK.replace(before, after), 32, are_kept=True)


def test_a_server_of_one_kept_connection_does_not_pass_for_fast() -> None:
    """Low latency at high throughput means that most of the 32 connections were not served."""
    starved = WRK.replace("3.20ms", "99.00us")
    with pytest.raises(LoadFailed, match=r"1\.0 of 32 kept connections"):
        peers_tools.parse_wrk(starved, 32, are_kept=True)
    assert peers_tools.parse_wrk(starved, 32, are_kept=False).requests == 10_000


def test_redis_benchmark_is_added_up() -> None:
    """The time is that of all tests, the latency that of the slowest."""
    heard = peers_tools.parse_redis_benchmark(REDIS, 1000)
    assert astuple(heard) == pytest.approx((3000, 4.0, 0.0002, 0.0009))


@pytest.mark.parametrize("line", ['"GET","1000.00"', '"SET","500.00"', '"test"'])
def test_redis_benchmark_without_a_test_has_no_figures(line: str) -> None:
    """A test that is not there, or has no number, is a fault."""
    with pytest.raises(LoadFailed):
        peers_tools.parse_redis_benchmark(REDIS.replace(line, '"x","0.00"'), 1000)


def test_table_is_ordered_by_cost_and_says_where_we_lose() -> None:
    """The baseline is 1, a cheaper peer stands above it and in the note."""
    found = Found({"forkserve a": [figures(20e-6)], "b": [figures(10e-6)]})
    text = shown(found)
    assert re.findall(r"^  (b|forkserve a) +(\S+ us) +(\S+)", text, re.MULTILINE) == [
        ("b", "10.0 us", "0.50"),
        ("forkserve a", "20.0 us", "1"),
    ]
    assert "forkserve loses to: b." in text


def test_mode_of_ours_that_is_cheaper_is_no_loss() -> None:
    """Only a peer can win."""
    found = Found({"forkserve a": [figures(20e-6)], "forkserve b": [figures(10e-6)]})
    assert "forkserve loses to: nobody" in shown(found)


def test_loss_that_is_not_sure_is_said_to_be_so() -> None:
    """Where the rounds contradict each other, and most say that the peer is cheaper."""
    ours = [figures(20e-6)] * 3
    found = Found({"forkserve a": ours, "b": [figures(10e-6), figures(10e-6), figures(90e-6)]})
    text = shown(found)
    assert "~0.50" in text
    assert "forkserve loses to: nobody, for sure.\n  It may lose to: b." in text


def test_server_with_a_fault_has_a_line_and_no_figure() -> None:
    """Whatever it did before its fault."""
    found = Found({"forkserve a": [figures(20e-6)], "b": [figures(10e-6)]})
    found.drop("b", LoadFailed("b: 1 reset beside 3 good answers"))
    text = shown(found)
    assert "Not counted: b: b: 1 reset" in text
    assert "10.0 us" not in text


def test_without_the_baseline_there_are_figures_and_no_ratio() -> None:
    """A ratio against nothing is not made up."""
    found = Found({"b": [figures(10e-6)]}, {"forkserve a": "ended"})
    assert peers.compare(found.turns, "forkserve a") == {}
    assert "10.0 us      -" in shown(found)


def test_throughput_that_is_the_generators_is_called_so() -> None:
    """Where the clients were busy all the time, the server was not."""
    found = Found({"forkserve a": [figures(20e-6, 0.95)]})
    assert "could give no more to: forkserve a." in shown(found)


def test_missing_peer_is_named_with_its_remedy() -> None:
    """And not measured; that it was not asked for is another matter."""
    report = Report("name", "title", "text")
    bench = peers.Bench(report, peers.QUICK, [0], ["b"])
    chosen = bench.choose([Peer("a", []), Peer("b", [], MISSING), Peer("c", [], MISSING)], "a")
    assert [peer.name for peer in chosen] == ["a"]
    assert report.missing == ["b (nothing): missing (pip install nothing)"]


def test_every_comparison_has_its_baseline_and_each_name_once(tmp_path: Path) -> None:
    """What a ratio is taken against is among the servers."""
    catalogue = {
        "forkserve prefork, 1 worker": peers_catalogue.short_lived("peer", tmp_path),
        "forkserve thread": peers_catalogue.kept(tmp_path),
        "forkserve wsgi.py, prefork, 1 worker": peers_catalogue.http_closing(tmp_path),
        "forkserve files.py, thread, HTTP/1.1": peers_catalogue.http_keeping(tmp_path),
        "forkserve redis_like.py, thread": peers_catalogue.redis_likes(),
    }
    names = {baseline: [each.name for each in found] for baseline, found in catalogue.items()}
    assert [baseline for baseline, listed in names.items() if baseline not in listed] == []
    assert [listed for listed in names.values() if len(set(listed)) < len(listed)] == []


@contextmanager
def answering(answer: bytes) -> Iterator[socket.socket]:
    """Give a connection to a server that knows one answer."""
    ours, theirs = socket.socketpair()

    def answer_once() -> None:
        with theirs:
            theirs.recv(65536)
            theirs.sendall(answer)

    server = threading.Thread(target=answer_once)
    server.start()
    with ours:
        yield ours
    server.join(5)


@pytest.mark.parametrize(
    ("head", "is_kept", "complaint"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 64\r\n\r\n", True, ""),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 64\r\n\r\n", False, "keeps the connection"),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 64\r\n\r\n", False, ""),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 64\r\n\r\n", True, "closes the connection"),
        (b"HTTP/1.1 404 No\r\nContent-Length: 64\r\n\r\n", True, "wrong answer: 404"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 63\r\n\r\n", True, "wrong answer: 200"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 65\r\n\r\n", True, "no answer"),
    ],
)
def test_server_is_asked_once_before_wrk_is_believed(
    head: bytes, is_kept: bool, complaint: str
) -> None:
    """Its status and every byte are looked at, and what becomes of the connection."""
    with answering(head + ANSWER) as connection:
        assert complaint_about(connection, is_kept=is_kept).startswith(complaint)


def complaint_about(connection: socket.socket, *, is_kept: bool) -> str:
    """Return what is wrong with an answer, "" if nothing is."""
    try:
        peers_tools.look_at_answer(connection, is_kept=is_kept)
    except LoadFailed as fault:
        return str(fault).removeprefix("a ").removeprefix("it ")
    return ""


STANDS = "import signal; print('listening on tcp://127.0.0.1:1', flush=True); signal.pause()"


def test_fault_of_one_server_is_not_that_of_the_others() -> None:
    """Who does not start, or fails in a turn, has no turn more; round 0 warms up."""
    asked: list[list[str]] = []

    def drive(server: Server, is_weighed: bool) -> Figures:
        asked.append(server.command[3:])
        if "bad" in server.command:
            raise LoadFailed("bad")
        return figures(1.0)

    commands = {"good": [STANDS, "good"], "bad": [STANDS, "bad"], "absent": ["raise SystemExit(7)"]}
    servers = tuple(Peer(name, [sys.executable, "-c", *rest]) for name, rest in commands.items())
    effort = replace(peers.QUICK, rounds=3, has_warm_up=True)
    found = peers.measure(Comparison("Title", "request", "good", servers, drive), effort, CPU)
    assert found.turns == {"good": [figures(1.0)] * 3}
    assert sorted(found.faults) == ["absent", "bad"]
    assert sorted(asked) == [["bad"], *[["good"]] * 4]


def run_script(folder: Path, *arguments: str) -> dict[str, Any]:
    """Run the script as a user does, and return what it keeps."""
    kept = folder / "peers.json"
    ran = subprocess.run(
        [sys.executable, f"{ROOT}/benchmarks/peers.py", "--quick", "--json", kept, *arguments],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, ""), ran.stdout + ran.stderr
    report: dict[str, Any] = json.loads(kept.read_text())
    return report


def rows(report: dict[str, Any]) -> dict[str, list[Sequence[str]]]:
    """Return the names and costs of each table."""
    return {table["title"]: [row[:2] for row in table["rows"]] for table in report["tables"]}


@pytest.mark.heavy
@pytest.mark.timeout(120)
def test_script_compares_connections(tmp_path: Path) -> None:
    """Both ways a short connection ends, and kept ones; each server has a cost and a ratio."""
    words = ("--peers", "ThreadingTCPServer", "Unix", "forked by hand", "asyncio")
    report = run_script(tmp_path, "--only", "short", "kept", *words)
    tables = rows(report)
    assert [len(found) for found in tables.values()] == [7, 7, 6]
    assert [cost for found in tables.values() for _, cost in found if not cost.endswith("s")] == []
    assert len(report["ratios"]) == 6 + 6 + 5
    assert [chart["title"] for chart in report["charts"]] == [
        "CPU of one short connection",
        "CPU of one exchange on a kept connection",
    ]
    bars = report["charts"][0]["series"]["server closes first"]
    assert all(math.isfinite(bar) for bar in bars)


@pytest.mark.heavy
@pytest.mark.timeout(120)
def test_script_compares_perl(tmp_path: Path) -> None:
    """Net::Server's three kinds answer as ours do, and all their CPU is known."""
    requires("perl")
    if not peers_catalogue.has_net_server():
        pytest.skip("Net::Server is missing")
    found = rows(run_script(tmp_path, "--only", "short", "--peers", "Net::Server"))
    assert [len(listed) for listed in found.values()] == [4, 4]
    assert [cost for listed in found.values() for _, cost in listed if cost == "-"] == []


@pytest.mark.heavy
@pytest.mark.timeout(120)
def test_script_compares_http_and_redis(tmp_path: Path) -> None:
    """Neither wrk nor redis-benchmark sees a fault in the examples or their models."""
    requires("wrk", "redis-benchmark", "redis-server")
    words = ("--peers", "wsgiref", "ThreadingHTTPServer", "redis-server")
    found = rows(run_script(tmp_path, "--only", "http", "redis", *words))
    assert [len(listed) for listed in found.values()] == [3, 2, 2]
    assert [cost for listed in found.values() for _, cost in listed if cost == "-"] == []
