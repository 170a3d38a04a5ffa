"""Keep values in memory for Redis's own clients: as much of its protocol (RESP2) as they need.

    python3 -m forkserve run examples/redis_like.py:Redis --mode thread -b tcp://127.0.0.1:6379
    redis-cli set greeting hello

The memory is that of the process which serves the connection. All clients share one where there
is one such process, in the modes `thread` and `iterative`; in `prefork` each worker has its own,
in `process` each connection, empty at first and gone at the end. INFO says whose one sees.
"""

import math
import os
from collections.abc import Callable
from threading import Lock
from time import monotonic
from typing import ClassVar, TypeAlias

import forkserve

LONGEST_LINE = 64 * 1024
LONGEST_WORD = 512 * 1024 * 1024
MOST_WORDS = 1024 * 1024
INTEGERS = range(-(1 << 63), 1 << 63)
NEVER = math.inf

Reply: TypeAlias = "int | str | bytes | list[Reply] | None"
Command = Callable[..., Reply]


class Refused(Exception):
    """A command is not performed; the message tells the client why."""


class ProtocolError(Exception):
    """What arrived is not RESP, so that nothing after it can be understood."""


class Memory:
    """Values by key, each until a moment of the monotonic clock."""

    def __init__(self) -> None:
        self.lock = Lock()  # held for one whole command: INCR reads and writes
        self.entries: dict[bytes, tuple[bytes, float]] = {}

    def look_up(self, key: bytes) -> tuple[bytes | None, float]:
        """Return a value and its end; that it is over is found here, when somebody asks."""
        value, end = self.entries.get(key, (None, NEVER))
        if end <= monotonic():
            del self.entries[key]
            return None, NEVER
        return value, end

    def put(self, key: bytes, value: bytes, end: float = NEVER) -> None:
        """Keep a value until its end."""
        self.entries[key] = value, end

    def remove(self, key: bytes) -> bool:
        """Forget a value, and tell whether there was one."""
        value, _ = self.look_up(key)
        self.entries.pop(key, None)
        return value is not None


class Redis(forkserve.StreamHandler):
    """Answer one command after another until the client leaves or says QUIT."""

    memory: ClassVar = Memory()  # of this process: threads share it, forked processes do not

    def handle(self) -> None:
        try:
            while line := self.next_line():
                words = self.words(line)
                if words:
                    # Kept until a read has to wait, so a pipeline is answered in few writes.
                    self.wfile.write(perform(self.memory, words))
                    if words[0].upper() == b"QUIT":
                        return
        except ProtocolError as error:
            self.wfile.write(refusal(f"Protocol error: {error}"))

    def next_line(self) -> bytes:
        """Return the line that begins the next command, b"" if there is none."""
        with self.connection.idle():
            line = self.rfile.readline(LONGEST_LINE)
        if len(line) == LONGEST_LINE:
            raise ProtocolError("too big inline request")
        return line if line.endswith(b"\n") else b""

    def words(self, line: bytes) -> list[bytes]:
        """Return the words of the command that begins with this line."""
        if not line.startswith(b"*"):
            return line.split()  # typed by a person, all in one line; we know no quotes
        count = length(line, MOST_WORDS, "invalid multibulk length")
        return [self.word() for _ in range(count)]

    def word(self) -> bytes:
        """Return one word: its length comes first, so it may hold any byte."""
        try:
            line = self.connection.recv_until(b"\n", LONGEST_LINE)
        except forkserve.MessageTooLong:
            raise ProtocolError("too big bulk count string") from None
        if not line.startswith(b"$"):
            raise ProtocolError(f"expected '$', got {shown(line[:1])}")
        size = length(line, LONGEST_WORD, "invalid bulk length")
        word = self.connection.recv_exactly(size + 2)
        if not word.endswith(b"\r\n"):
            raise ProtocolError("expected CRLF after a bulk")
        return word[:-2]


def length(line: bytes, most: int, complaint: str) -> int:
    r"""Return the number in a line like *3\r\n or $5\r\n."""
    digits = line[1:-2]
    if not digits.isdigit() or len(digits) > 10 or int(digits) > most:
        raise ProtocolError(complaint)
    return int(digits)


def perform(memory: Memory, words: list[bytes]) -> bytes:
    """Return the reply to a command, which no other command comes between."""
    name, *arguments = words
    try:
        command = find(name, len(arguments))
        with memory.lock:
            reply = command(memory, *arguments)
    except Refused as error:
        return refusal(str(error))
    return encode(reply)


def find(name: bytes, count: int) -> Command:
    """Return the command of this name, if it takes so many arguments."""
    found = COMMANDS.get(name.upper())
    if found is None:  # HELLO too: a client that asks for RESP3 first goes on without it
        raise Refused(f"unknown command {shown(name)}")
    command, least, most = found
    if not least <= count <= most:
        raise wrong_number(name)
    return command


def encode(reply: Reply) -> bytes:
    """Return a reply as RESP2 writes it; bytes are a value, a str is a status."""
    match reply:
        case None:
            return b"$-1\r\n"
        case bytes():
            return b"$%d\r\n%b\r\n" % (len(reply), reply)
        case str():
            return b"+%b\r\n" % reply.encode()
        case int():
            return b":%d\r\n" % reply
    return b"*%d\r\n%b" % (len(reply), b"".join(map(encode, reply)))


def refusal(message: str) -> bytes:
    """Return an error as RESP2 writes it."""
    return b"-ERR %b\r\n" % message.encode()


def shown(word: bytes) -> str:
    """Return a word in quotes, and in one line whatever is in it."""
    return ascii(word[:128].decode("latin-1"))


def wrong_number(name: bytes) -> Refused:
    """Return the complaint of a command with too many or too few arguments."""
    return Refused(f"wrong number of arguments for {shown(name.lower())} command")


def integer(text: bytes) -> int:
    """Return the number that a word is; Redis knows one spelling of each."""
    try:
        number = int(text)
    except ValueError:
        number = INTEGERS.stop
    if number not in INTEGERS or b"%d" % number != text:
        raise Refused("value is not an integer or out of range")
    return number


def ping(memory: Memory, word: bytes | None = None) -> Reply:
    """Say that we are here."""
    return "PONG" if word is None else word


def echo(memory: Memory, word: bytes) -> Reply:
    """Give a word back."""
    return word


def get(memory: Memory, key: bytes) -> Reply:
    """Return a value."""
    return memory.look_up(key)[0]


def mget(memory: Memory, *keys: bytes) -> Reply:
    """Return several values."""
    return [memory.look_up(key)[0] for key in keys]


def set_value(memory: Memory, key: bytes, value: bytes, *options: bytes) -> Reply:
    """Keep a value: NX only a new one, XX only another one; GET wants the old one back."""
    end, flags = set_options(options)
    old, _ = memory.look_up(key)
    kept = (b"NX" if old is not None else b"XX") not in flags
    if kept:
        memory.put(key, value, end)
    if b"GET" in flags:
        return old
    return "OK" if kept else None


def set_options(options: tuple[bytes, ...]) -> tuple[float, set[bytes]]:
    """Return the end that EX (seconds) or PX (milliseconds) sets, and the other options."""
    end, flags = NEVER, set()
    words = iter(options)
    for option in map(bytes.upper, words):
        if option in (b"NX", b"XX", b"GET"):
            flags.add(option)
        elif option in (b"EX", b"PX") and end == NEVER and (amount := next(words, None)):
            end = set_end(integer(amount), 1 if option == b"EX" else 1000)
        else:
            raise Refused("syntax error")
    if {b"NX", b"XX"} <= flags:
        raise Refused("syntax error")
    return end, flags


def set_end(amount: int, per_second: int) -> float:
    """Return the moment so far from now."""
    if amount <= 0 or amount * 1000 not in INTEGERS:
        raise Refused("invalid expire time in 'set' command")
    return monotonic() + amount / per_second


def mset(memory: Memory, *words: bytes) -> Reply:
    """Keep several values, all at the same moment for everybody else."""
    if len(words) % 2:
        raise wrong_number(b"mset")
    for key, value in zip(words[::2], words[1::2], strict=True):
        memory.put(key, value)
    return "OK"


def delete(memory: Memory, *keys: bytes) -> Reply:
    """Forget values, and return how many there were."""
    return sum(memory.remove(key) for key in keys)


def exists(memory: Memory, *keys: bytes) -> Reply:
    """Return how many of the keys have a value."""
    return sum(memory.look_up(key)[0] is not None for key in keys)


def increment(memory: Memory, key: bytes, amount: bytes = b"1") -> Reply:
    """Add to a number that is kept, and return the sum."""
    return add(memory, key, integer(amount))


def decrement(memory: Memory, key: bytes, amount: bytes = b"1") -> Reply:
    """Subtract from a number that is kept, and return the difference."""
    return add(memory, key, -integer(amount))


def add(memory: Memory, key: bytes, amount: int) -> int:
    """Add to a number, 0 if there is none, and leave its end as it is."""
    value, end = memory.look_up(key)
    total = integer(b"0" if value is None else value) + amount
    if total not in INTEGERS:
        raise Refused("increment or decrement would overflow")
    memory.put(key, b"%d" % total, end)
    return total


def expire(memory: Memory, key: bytes, seconds: bytes) -> Reply:
    """Let a value end in so many seconds, and tell (1 or 0) whether there is one."""
    left = integer(seconds)
    if left * 1000 not in INTEGERS:
        raise Refused("invalid expire time in 'expire' command")
    value, _ = memory.look_up(key)
    if value is None:
        return 0
    memory.put(key, value, monotonic() + left)
    return 1


def ttl(memory: Memory, key: bytes) -> Reply:
    """Return the seconds that a value still has, -1 for one without end, -2 for none."""
    value, end = memory.look_up(key)
    if value is None:
        return -2
    return -1 if end == NEVER else round(end - monotonic())


def dbsize(memory: Memory) -> Reply:
    """Return how many values are kept, over ones that nobody asked for included."""
    return len(memory.entries)


def flushall(memory: Memory, mode: bytes = b"SYNC") -> Reply:
    """Forget everything."""
    memory.entries.clear()
    return "OK"


def info(memory: Memory, *sections: bytes) -> Reply:
    """Return facts about the process that serves this connection."""
    facts = {
        "redis_version": "7.0.0-forkserve",
        "redis_mode": "standalone",
        "process_id": os.getpid(),
        "db0": f"keys={len(memory.entries)},expires={expiring(memory)},avg_ttl=0",
    }
    return "".join(f"{name}:{fact}\r\n" for name, fact in facts.items()).encode()


def expiring(memory: Memory) -> int:
    """Return how many values have an end."""
    return sum(end != NEVER for _, end in memory.entries.values())


def select(memory: Memory, number: bytes) -> Reply:
    """Accept database 0, the only one."""
    if integer(number) != 0:
        raise Refused("DB index is out of range")
    return "OK"


def client(memory: Memory, subcommand: bytes, *words: bytes) -> Reply:
    """Take the names that client libraries give themselves, and forget them."""
    if subcommand.upper() not in (b"SETNAME", b"SETINFO"):
        raise Refused(f"unknown subcommand {shown(subcommand)}. Try CLIENT HELP.")
    return "OK"


def config(memory: Memory, subcommand: bytes, *names: bytes) -> Reply:
    """Return the two settings that redis-benchmark asks for."""
    if subcommand.upper() != b"GET":
        raise Refused(f"unknown subcommand {shown(subcommand)}. Try CONFIG HELP.")
    settings = {b"save": b"", b"appendonly": b"no"}
    return [part for name in names if name in settings for part in (name, settings[name])]


def describe(memory: Memory, *words: bytes) -> Reply:
    """Return no descriptions: redis-cli asks for them to give hints, and does without."""
    return []


def leave(memory: Memory) -> Reply:
    """Agree that the conversation is over."""
    return "OK"


# What performs a command, and how few and how many arguments it takes.
COMMANDS: dict[bytes, tuple[Command, int, int]] = {
    b"CLIENT": (client, 1, MOST_WORDS),
    b"COMMAND": (describe, 0, MOST_WORDS),
    b"CONFIG": (config, 2, MOST_WORDS),
    b"DBSIZE": (dbsize, 0, 0),
    b"DECR": (decrement, 1, 1),
    b"DECRBY": (decrement, 2, 2),
    b"DEL": (delete, 1, MOST_WORDS),
    b"ECHO": (echo, 1, 1),
    b"EXISTS": (exists, 1, MOST_WORDS),
    b"EXPIRE": (expire, 2, 2),
    b"FLUSHALL": (flushall, 0, 1),
    b"GET": (get, 1, 1),
    b"INCR": (increment, 1, 1),
    b"INCRBY": (increment, 2, 2),
    b"INFO": (info, 0, MOST_WORDS),
    b"MGET": (mget, 1, MOST_WORDS),
    b"MSET": (mset, 2, MOST_WORDS),
    b"PING": (ping, 0, 1),
    b"QUIT": (leave, 0, 0),
    b"SELECT": (select, 1, 1),
    b"SET": (set_value, 2, MOST_WORDS),
    b"TTL": (ttl, 1, 1),
}
