"""Redis's own clients find in the example the server they know."""

import contextlib
import importlib
import random
import re
import socket
import struct
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from signal import SIGTERM
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.clients import (
    ask,
    at_once,
    connect,
    ends,
    exchange,
    path_of,
    port_of,
    read_to_end,
)
from tests.support.clients import read_exactly as read
from tests.support.output import Output
from tests.support.requirements import missing, requires
from tests.support.server import ROOT, running
from tests.support.waiting import becomes

MODES = ("iterative", "thread", "process", "prefork")
REDIS = f"{ROOT}/examples/redis_like.py:Redis"
MEBIBYTE = random.Random("every byte counts").randbytes(1 << 20)
PORT_WARNING = re.compile(r"^WARNING: Keepalive disabled\. .*\n", re.MULTILINE)
DATA_SEGMENTS_IN = slice(152, 156)  # tcpi_data_segs_in in struct tcp_info

CONVERSATION = """\
PING
ECHO "two words"
SET greeting "hello\\r\\nthere"
GET greeting
GET nothing
SET greeting bye NX
SET greeting bye XX GET
SET short life EX 100
TTL short
TTL greeting
EXPIRE greeting 50
TTL greeting
TTL nothing
INCR n
INCRBY n 41
DECR n
DECRBY n 1
MSET a 1 b "" c 3
MGET a b c nothing
EXISTS a b nothing
DEL a b nothing
DBSIZE
INCR greeting
NONSENSE
GET
SELECT 0
SELECT 99
CONFIG GET save
COMMAND DOCS
FLUSHALL
DBSIZE
"""
SAID = """\
PONG
"two words"
OK
"hello\\r\\nthere"
(nil)
(nil)
"hello\\r\\nthere"
OK
(integer) 100
(integer) -1
(integer) 1
(integer) 50
(integer) -2
(integer) 1
(integer) 42
(integer) 41
(integer) 40
OK
1) "1"
2) ""
3) "3"
4) (nil)
(integer) 2
(integer) 2
(integer) 4
(error) ERR value is not an integer or out of range
(error) ERR unknown command 'NONSENSE'
(error) ERR wrong number of arguments for 'get' command
OK
(error) ERR DB index is out of range
1) "save"
2) ""
(empty array)
OK
(integer) 0
"""

# What is sent, and what Redis 7.0 replies to it, to the byte.
DIALOGUES = {
    "empty lines": (b"\r\n  \r\n*0\r\nPING\r\n", b"+PONG\r\n"),
    "line feed": (b"PING\nPING x\n", b"+PONG\r\n$1\r\nx\r\n"),
    "unfinished line": (b"PING\r\nPING", b"+PONG\r\n"),
    "unfinished bulk": (b"*1\r\n$4\r\nPING\r\n*1\r\n$4\r\nPI", b"+PONG\r\n"),
    "quit": (b"QUIT\r\nPING\r\n", b"+OK\r\n"),
    "set, no time": (b"SET k v EX 0\r\n", b"-ERR invalid expire time in 'set' command\r\n"),
    "set, never ends": (
        b"SET k v PX 9223372036854775808\r\nSET k v EX 9223372036854775807\r\n",
        b"-ERR value is not an integer or out of range\r\n"
        b"-ERR invalid expire time in 'set' command\r\n",
    ),
    "set, bad options": (
        b"SET k v NX XX\r\nSET k v EX\r\nSET k v FOO\r\nSET k v EX 1 PX 1\r\nGET k\r\n",
        b"-ERR syntax error\r\n" * 4 + b"$-1\r\n",
    ),
    "set, get": (
        b"SET b x GET\r\nSET b y NX GET\r\nSET b z xx get\r\nGET b\r\n",
        b"$-1\r\n$1\r\nx\r\n$1\r\nx\r\n$1\r\nz\r\n",
    ),
    "set forgets the end": (b"SET k v EX 9\r\nSET k v\r\nTTL k\r\n", b"+OK\r\n+OK\r\n:-1\r\n"),
    "incr keeps the end": (b"SET k 1 EX 9\r\nINCR k\r\nTTL k\r\n", b"+OK\r\n:2\r\n:9\r\n"),
    "over at once": (b"SET k v\r\nEXPIRE k -1\r\nEXISTS k k\r\n", b"+OK\r\n:1\r\n:0\r\n"),
    "twice the same": (b"SET k v\r\nEXISTS k k\r\nDEL k k\r\n", b"+OK\r\n:2\r\n:1\r\n"),
    "numbers": (
        b"SET n 9223372036854775807\r\nINCR n\r\nSET n 05\r\nINCR n\r\nSET n +5\r\nINCR n\r\n",
        b"+OK\r\n-ERR increment or decrement would overflow\r\n"
        + b"+OK\r\n-ERR value is not an integer or out of range\r\n" * 2,
    ),
    "odd mset": (
        b"MSET a 1 b\r\nMGET a b\r\n",
        b"-ERR wrong number of arguments for 'mset' command\r\n*2\r\n$-1\r\n$-1\r\n",
    ),
    "subcommands": (
        b"CLIENT SETNAME me\r\nCLIENT FOO\r\nCONFIG FOO BAR\r\nCONFIG GET nothing\r\n",
        b"+OK\r\n-ERR unknown subcommand 'FOO'. Try CLIENT HELP.\r\n"
        b"-ERR unknown subcommand 'FOO'. Try CONFIG HELP.\r\n*0\r\n",
    ),
    "word count is no number": (
        b"PING\r\n*x\r\nPING\r\n",
        b"+PONG\r\n-ERR Protocol error: invalid multibulk length\r\n",
    ),
    "no length": (
        b"*1\r\nx4\r\nPING\r\n",
        b"-ERR Protocol error: expected '$', got 'x'\r\n",
    ),
    "length is negative": (
        b"*1\r\n$-1\r\nPING\r\n",
        b"-ERR Protocol error: invalid bulk length\r\n",
    ),
    "length is oversized": (
        b"*1\r\n$536870913\r\nPING\r\n",
        b"-ERR Protocol error: invalid bulk length\r\n",
    ),
    "length is endless": (
        b"*1\r\n$" + b"4" * 70000,
        b"-ERR Protocol error: too big bulk count string\r\n",
    ),
    "line is endless": (b"P" * 70000, b"-ERR Protocol error: too big inline request\r\n"),
}
# Where we are stricter than Redis, or put it shorter.
OUR_DIALOGUES = {
    "too many words": (b"*1048577\r\n", b"-ERR Protocol error: invalid multibulk length\r\n"),
    "bulk without its end": (
        b"*1\r\n$4\r\nPINGxx*1\r\n$4\r\nPING\r\n",
        b"-ERR Protocol error: expected CRLF after a bulk\r\n",
    ),
    "unknown": (b"*1\r\n$3\r\n\r\n\xff\r\n", b"-ERR unknown command '\\r\\n\\xff'\r\n"),
    "resp3": (b"HELLO 3\r\nPING\r\n", b"-ERR unknown command 'HELLO'\r\n+PONG\r\n"),
}

WORDS = st.lists(st.binary(max_size=40), min_size=1, max_size=3)
KEYS = st.sampled_from([b"a", b"b"])
COMMANDS = st.one_of(
    st.tuples(st.just(b"SET"), KEYS, st.binary(max_size=200)),
    st.tuples(st.sampled_from([b"GET", b"INCR", b"DEL", b"TTL"]), KEYS),
    st.tuples(st.just(b"ECHO"), st.binary(min_size=5000, max_size=20000)),
    st.tuples(st.just(b"MGET"), KEYS, KEYS),
    WORDS.map(lambda words: (b"X", *words)),
)


def resp(*words: bytes) -> bytes:
    """Return a command as clients write it."""
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(w), w) for w in words)


def to(address: str) -> list[str]:
    """Return how Redis's tools are told an address."""
    if address.startswith("unix:"):
        return ["-s", path_of(address)]
    return ["-h", "127.0.0.1", "-p", str(port_of(address))]


def output_of(*command: str, stdin: str = "", timeout: float = 50) -> str:
    """Return what a program printed; it must succeed and complain of nothing but ports."""
    ran = subprocess.run(
        command, input=stdin, capture_output=True, timeout=timeout, text=True, check=False
    )
    assert (ran.returncode, PORT_WARNING.sub("", ran.stderr)) == (0, ""), ran
    return ran.stdout


def redis_cli(address: str, script: str) -> str:
    """Return what redis-cli printed while it sent these commands."""
    requires("redis-cli")
    return output_of("redis-cli", *to(address), "--no-raw", stdin=script)


@contextlib.contextmanager
def redis_py(address: str) -> Iterator[Any]:
    """Yield the Python client, on one connection."""
    try:
        redis: Any = importlib.import_module("redis")
    except ImportError:
        missing("the Python package redis")
    # From its version 8 on it asks for RESP3 unless told, and does not go on without.
    port = port_of(address)
    with redis.Redis(port=port, protocol=2, max_connections=1) as client:
        yield client


def benchmark(
    address: str, *flags: str, tests: str = "ping,set,get,incr,mset", timeout: float = 50
) -> list[str]:
    """Return the names of the tests that redis-benchmark brought to their end."""
    requires("redis-benchmark")
    named = ("-t", tests, "--csv")
    report = output_of("redis-benchmark", *to(address), *flags, *named, timeout=timeout)
    return re.findall(r'^"([^"]+)","[1-9]', report, re.MULTILINE)


BENCHMARKED = ["PING_INLINE", "PING_MBULK", "SET", "GET", "INCR", "MSET (10 keys)"]


def process_id(client: socket.socket) -> bytes:
    """Return which process INFO says serves this client."""
    client.sendall(b"INFO\r\n")
    size = int(read(client, 6)[1:4])
    facts = dict(line.split(b":") for line in read(client, size + 2).split())
    return facts[b"process_id"]


def data_segments(client: socket.socket) -> int:
    """Return how many segments with data have arrived."""
    info = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 192)
    return int(struct.unpack("I", info[DATA_SEGMENTS_IN])[0])


@contextlib.contextmanager
def redis_itself(folder: Path) -> Iterator[str]:
    """Run the real server and yield its address."""
    requires("redis-server")
    path = folder / "redis.sock"
    options = ("--port", "0", "--unixsocket", str(path), "--save", "", "--dir", str(folder))
    server = subprocess.Popen(["redis-server", *options], stdout=subprocess.PIPE)
    assert server.stdout is not None
    output = Output(server.stdout)
    try:
        output.wait_for("(?i)ready to accept connections.* unix|now ready to accept connections at")
        yield f"unix://{path}"
    finally:
        server.terminate()
        server.wait(10)
        output.close()


@pytest.mark.parametrize("transport", ["tcp", "unix"])
@pytest.mark.parametrize("mode", MODES)
def test_redis_cli_holds_a_conversation(mode: str, transport: str, tmp_path: Path) -> None:
    """One connection is answered as Redis answers, to the byte, in every mode."""
    address = "tcp://127.0.0.1:0" if transport == "tcp" else f"unix://{tmp_path}/redis.sock"
    with running(REDIS, mode, address=address) as server:
        assert redis_cli(server.address, CONVERSATION) == SAID


@pytest.mark.parametrize(
    ("sent", "replied"), [pytest.param(*said, id=name) for name, said in DIALOGUES.items()]
)
def test_redis_itself_says_the_same(sent: bytes, replied: bytes, tmp_path: Path) -> None:
    """The replies that the example is held to are the real server's."""
    with redis_itself(tmp_path) as address:
        assert ask(address, sent) == replied


@pytest.mark.parametrize(
    ("sent", "replied"),
    [pytest.param(*said, id=name) for name, said in (DIALOGUES | OUR_DIALOGUES).items()],
)
def test_each_message_gets_its_reply(sent: bytes, replied: bytes) -> None:
    """Every command is answered or refused; what is not RESP is said to be, and ends it."""
    with running(REDIS, "iterative") as server, connect(server.address) as client:
        assert exchange(client, sent) == replied


@pytest.mark.parametrize("mode", MODES)
def test_redis_py_finds_what_it_kept(mode: str) -> None:
    """The Python client gets back every value, number and lifetime over its connection."""
    with running(REDIS, mode) as server, redis_py(server.address) as client:
        client.set("k", "v", ex=100)
        assert (client.get("k"), client.ttl("k")) == (b"v", 100)
        client.mset({"a": MEBIBYTE, "b": b"\r\n\0"})
        assert client.mget("a", "b", "c") == [MEBIBYTE, b"\r\n\0", None]
        assert client.incr("n", 2) == 2
        assert client.expire("n", 0)
        assert client.exists("n", "k") == 1
        assert client.info()["redis_version"] == "7.0.0-forkserve"


@pytest.mark.parametrize("mode", MODES)
def test_redis_py_sends_pipelines(mode: str) -> None:
    """A thousand commands sent together get their thousand replies in order."""
    with running(REDIS, mode) as server, redis_py(server.address) as client:
        pipeline = client.pipeline(transaction=False)
        for number in range(500):
            pipeline.set(f"key:{number}", number).incr("n")
        replies = pipeline.execute()
    assert replies == [reply for number in range(500) for reply in (True, number + 1)]


@pytest.mark.parametrize(
    ("arguments", "flags"),
    [
        pytest.param(("iterative",), ("-c", "1"), id="iterative"),
        pytest.param(("iterative",), ("-c", "50", "-k", "0"), id="iterative-k0"),
        pytest.param(("thread",), ("-c", "50"), id="thread"),
        pytest.param(("thread",), ("-c", "50", "-P", "16"), id="thread-P16"),
        pytest.param(("process",), ("-c", "10"), id="process"),
        pytest.param(("prefork", "-w", "2"), ("-c", "2"), id="prefork"),
        pytest.param(("prefork", "-w", "2"), ("-c", "50", "-k", "0"), id="prefork-k0"),
        pytest.param(("prefork", "--threads", "50"), ("-c", "50"), id="prefork-threads"),
    ],
)
def test_redis_benchmark_meets_no_error(arguments: tuple[str, ...], flags: tuple[str, ...]) -> None:
    """As many connections as the mode has places for, or new ones each time, bring every test."""
    with running(REDIS, *arguments) as server:
        assert benchmark(server.address, "-n", "1000", *flags) == BENCHMARKED


@pytest.mark.heavy
@pytest.mark.timeout(300)
@pytest.mark.parametrize("load", [("-P", "1"), ("-P", "16"), ("-k", "0")], ids="".join)
@pytest.mark.parametrize(
    "arguments",
    [("thread",), ("process",), ("prefork", "--threads", "50"), ("prefork",), ("iterative",)],
    ids="".join,
)
def test_redis_benchmark_meets_no_error_for_long(
    arguments: tuple[str, ...], load: tuple[str, ...], tmp_path: Path
) -> None:
    """Twice 20000 requests on 50 connections meet no error; 10000 on new ones; 1000 by forks."""
    kept = load != ("-k", "0")
    clients = "1" if kept and arguments in {("prefork",), ("iterative",)} else "50"
    new_ones = "1000" if arguments == ("process",) else "10000"
    requests = "20000" if kept else new_ones
    with running(REDIS, *arguments, address=f"unix://{tmp_path}/redis.sock") as server:
        flags = ("-c", clients, "-n", requests, *load)
        done = benchmark(server.address, *flags, tests="set,get", timeout=280)
        assert done == ["SET", "GET"]


def test_a_pipeline_is_the_same_in_any_pieces() -> None:
    """Commands sent together, cut anywhere, get the bytes that they get one at a time."""
    with running(REDIS, "thread") as server:

        @settings(max_examples=60, deadline=None)
        @given(st.lists(COMMANDS, max_size=20), st.lists(st.floats(0, 1), max_size=8))
        def check(commands: list[tuple[bytes, ...]], cuts: list[float]) -> None:
            wires = [resp(b"FLUSHALL"), *(resp(*words) for words in commands)]
            with connect(server.address) as client:
                alone = b"".join(say(client, wire) for wire in wires)
            assert in_pieces(server.address, b"".join(wires), cuts) == alone

        check()


def say(client: socket.socket, wire: bytes) -> bytes:
    """Return the replies to one command, which a PING after its reply delimits."""
    client.sendall(wire)
    mark = resp(b"ECHO", b"the mark after it")
    client.sendall(mark)
    received = b""
    while not received.endswith(b"$17\r\nthe mark after it\r\n"):
        received += read(client, 1)
    return received.removesuffix(b"$17\r\nthe mark after it\r\n")


def in_pieces(address: str, wire: bytes, cuts: list[float]) -> bytes:
    """Return what a connection answers to bytes that come in so many sends."""
    places = [0, *sorted(int(cut * len(wire)) for cut in cuts), len(wire)]
    with connect(address) as client, ThreadPoolExecutor(1) as reader:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        received = reader.submit(read_to_end, client)  # or both sides might wait to be read
        for begin, end in pairwise(places):
            client.sendall(wire[begin:end])
        client.shutdown(socket.SHUT_WR)
        return received.result()


def test_a_pipeline_is_answered_in_one_segment() -> None:
    """A hundred commands that come together are answered together."""
    with running(REDIS, "thread") as server, connect(server.address) as client:
        client.sendall(b"PING\r\n" * 100)
        assert read(client, 700) == b"+PONG\r\n" * 100
        assert data_segments(client) == 1


@pytest.fixture
def hasty(tmp_path: Path) -> str:
    """Return the example as a target whose threads take turns in the middle of everything."""
    path = tmp_path / "hasty.py"
    path.write_text(
        "import sys\nfrom examples.redis_like import Redis as Redis\nsys.setswitchinterval(1e-6)\n"
    )
    return f"{path}:Redis"


def test_threads_count_together(hasty: str) -> None:
    """No increment is lost among twenty clients."""
    with running(hasty, "thread") as server:
        at_once(20, lambda _: ask(server.address, b"INCR n\r\n" * 500))
        assert ask(server.address, b"GET n\r\n") == b"$5\r\n10000\r\n"


def test_one_of_many_wins_a_lock(hasty: str) -> None:
    """Of twenty clients that set the same keys if they are new, one succeeds with each."""
    wire = b"".join(b"SET lock:%d v NX\r\n" % number for number in range(500))
    with running(hasty, "thread") as server:
        replies = at_once(20, lambda _: ask(server.address, wire))
    assert b"".join(replies).count(b"+OK\r\n") == 500


@pytest.mark.parametrize("mode", ["iterative", "thread"])
def test_the_next_client_finds_what_the_last_one_kept(mode: str) -> None:
    """Where one process serves everybody, everybody shares its memory."""
    with running(REDIS, mode) as server:
        assert ask(server.address, b"SET k v\r\n") == b"+OK\r\n"
        assert ask(server.address, b"GET k\r\n") == b"$1\r\nv\r\n"


@pytest.mark.parametrize("mode", ["process", "prefork"])
def test_each_process_has_a_memory_of_its_own(mode: str) -> None:
    """What one process keeps another does not know, and INFO tells which is which."""
    with (
        running(REDIS, mode, *(("-w", "2") if mode == "prefork" else ())) as server,
        connect(server.address) as one,
        connect(server.address) as other,
    ):
        assert process_id(one) != process_id(other)
        assert exchange(one, b"SET k v\r\nGET k\r\n") == b"+OK\r\n$1\r\nv\r\n"
        assert exchange(other, b"GET k\r\n") == b"$-1\r\n"


def test_a_value_ends_in_its_time() -> None:
    """A value with milliseconds to live is gone soon, and is not counted as there."""
    with running(REDIS, "thread") as server, connect(server.address) as client:
        client.sendall(b"SET k v PX 20\r\n")
        assert read(client, 5) == b"+OK\r\n"
        becomes(b"$-1\r\n", lambda: ask(server.address, b"GET k\r\n"))
        assert ask(server.address, b"EXISTS k\r\nDEL k\r\nTTL k\r\n") == b":0\r\n:0\r\n:-2\r\n"


@pytest.mark.parametrize("mode", MODES)
def test_a_stop_ends_quiet_clients_at_once(mode: str) -> None:
    """A client that waits between two commands does not hold up a stop."""
    with running(REDIS, mode) as server, connect(server.address) as client:
        client.sendall(b"PING\r\n")
        assert read(client, 7) == b"+PONG\r\n"
        assert server.stop(timeout=10) == 0  # the drain timeout is 25 s
        assert ends(client)


def test_a_stop_lets_a_command_arrive() -> None:
    """A client that is in the middle of a command still gets its reply."""
    with (
        running(REDIS, "thread") as server,
        connect(server.address) as client,
        connect(server.address) as quiet,
    ):
        client.sendall(b"PING\r\n*2\r\n$4\r\nECHO\r\n")
        assert read(client, 7) == b"+PONG\r\n"
        server.signal(SIGTERM)
        assert ends(quiet)  # the stop has come this far
        assert exchange(client, b"$2\r\nhi\r\n") == b"$2\r\nhi\r\n"
