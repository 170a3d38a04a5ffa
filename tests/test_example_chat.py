"""The chat room: all see the same lines in the same order, and nobody holds up the others."""

import contextlib
import re
import socket
import subprocess
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest

from tests.support.clients import at_once, connect, path_of, port_of, read_line, read_to_end, reset
from tests.support.requirements import requires
from tests.support.server import TCP, running

CHAT = "examples/chat.py:Chat"
GREETING = re.compile(r"\* this is room (\d+): what is your nickname\?")
DOWN = "* the server is going down"


class Member:
    """Somebody connected to the room."""

    def __init__(self, client: socket.socket) -> None:
        self.client = client
        self._input = client.makefile("rb")
        greeting = GREETING.fullmatch(self.hear())
        assert greeting, "no greeting"
        self.room = int(greeting[1])

    def say(self, line: str) -> None:
        """Send a line."""
        self.client.sendall(line.encode() + b"\n")

    def hear(self) -> str:
        """Return the next line, nothing at the end."""
        return self._input.readline().decode().rstrip("\n")

    def hear_until(self, last: str) -> list[str]:
        """Return the lines up to this one, with it; it must come before the end."""
        heard = [self.hear()]
        while heard[-1] != last:
            assert heard[-1], f"the end instead of {last!r} after {heard[-3:]}"
            heard.append(self.hear())
        return heard

    def ask(self, line: str) -> str:
        """Send a line, and return the next one that comes."""
        self.say(line)
        return self.hear()

    def leave(self) -> None:
        """Close."""
        self._input.close()
        self.client.close()

    def vanish(self) -> None:
        """End with a reset."""
        self._input.close()
        reset(self.client)


@contextlib.contextmanager
def visitor(address: str) -> Iterator[Member]:
    """Yield somebody who has not given a nickname yet."""
    member = Member(connect(address))
    try:
        yield member
    finally:
        member.leave()


@contextlib.contextmanager
def member_of(address: str, name: str) -> Iterator[Member]:
    """Yield a member who has seen the room let him in."""
    with visitor(address) as member:
        assert member.ask(name) == f"* {name} has come"
        yield member


@contextlib.contextmanager
def three(address: str) -> Iterator[tuple[Member, Member, Member]]:
    """Yield three members who have seen each other come."""
    with (
        member_of(address, "ann") as ann,
        member_of(address, "bob") as bob,
        member_of(address, "cid") as cid,
    ):
        assert ann.hear_until("* cid has come") == ["* bob has come", "* cid has come"]
        assert bob.hear() == "* cid has come"
        yield ann, bob, cid


def addresses(folder: Path) -> list[str]:
    """Return where the room is served: over TCP and on a Unix socket."""
    return [TCP, f"unix://{folder}/chat.sock"]


def test_all_hear_each_line_once_and_in_the_same_order() -> None:
    """Three members who talk at once all hear the same 300 lines, each speaker's in his order."""
    with running(CHAT, "thread") as server, three(server.address) as members:

        def talk_and_listen(number: int) -> list[str]:
            for line in range(100):
                members[number].say(str(line))
            return [members[number].hear() for _ in range(300)]

        heard = at_once(3, talk_and_listen)
        assert heard[0] == heard[1] == heard[2]
        for name in ("ann", "bob", "cid"):
            ours = [line for line in heard[0] if line.startswith(name)]
            assert ours == [f"{name}: {line}" for line in range(100)]


def test_members_on_tcp_and_on_a_unix_socket_are_in_one_room(tmp_path: Path) -> None:
    """The address says how one comes, not where to."""
    with (
        running(CHAT, "thread", address=addresses(tmp_path)) as server,
        member_of(server.addresses[0], "ann") as ann,
        member_of(server.addresses[1], "bob") as bob,
    ):
        assert ann.hear() == "* bob has come"
        assert ann.ask("hello") == bob.hear() == "ann: hello"
        assert bob.ask("hello yourself") == ann.hear() == "bob: hello yourself"


def test_a_nickname_is_one_short_word_that_is_not_taken() -> None:
    """Who gives another is asked again, and the others hear nothing of it."""
    with (
        running(CHAT, "thread") as server,
        member_of(server.address, "ann") as ann,
        visitor(server.address) as bob,
    ):
        one_word = "* one word of up to 20 letters, please"
        assert bob.ask("") == one_word
        assert bob.ask("two words") == one_word
        assert bob.ask("b" * 21) == one_word
        assert bob.ask("/who") == one_word
        assert bob.ask("ann") == "* ann is taken; another one, please"
        assert bob.ask("b" * 20) == f"* {'b' * 20} has come"
        assert ann.hear() == f"* {'b' * 20} has come"


def test_who_tells_who_is_there_and_quit_leaves() -> None:
    """Only the one who asks hears the answer; one who quits is at the end of his connection."""
    with running(CHAT, "thread") as server, three(server.address) as (ann, bob, cid):
        assert bob.ask("/who") == "* here: ann, bob, cid"
        assert bob.ask("/dance") == "* there is /who and /quit"
        bob.say("/quit")
        assert bob.hear() == ""
        assert ann.hear() == cid.hear() == "* bob has left"
        assert cid.ask("/who") == "* here: ann, cid"


def test_a_nickname_is_free_again_when_its_owner_has_left() -> None:
    """The next one may take it."""
    with running(CHAT, "thread") as server, member_of(server.address, "ann") as ann:
        with member_of(server.address, "bob"):
            pass
        assert ann.hear_until("* bob has left")
        with member_of(server.address, "bob"):
            assert ann.hear() == "* bob has come"


@pytest.mark.parametrize("transport", [0, 1], ids=["tcp", "unix"])
def test_a_member_who_vanishes_is_noticed(transport: int, tmp_path: Path) -> None:
    """The others hear that he has left, and talk on."""
    with (
        running(CHAT, "thread", address=addresses(tmp_path)[transport]) as server,
        three(server.address) as (ann, bob, cid),
    ):
        bob.vanish()
        assert ann.hear() == cid.hear() == "* bob has left"
        assert ann.ask("where is he?") == cid.hear() == "ann: where is he?"


def test_the_last_line_needs_no_newline() -> None:
    """What a member said before the end of his input is heard."""
    with running(CHAT, "thread") as server, three(server.address) as (ann, bob, _):
        bob.client.sendall(b"one\ntwo")
        bob.client.shutdown(socket.SHUT_WR)
        assert ann.hear_until("* bob has left") == ["bob: one", "bob: two", "* bob has left"]


def test_a_long_line_becomes_several_and_nothing_writes_over_a_terminal() -> None:
    """A line goes on after 1024 bytes as the next one; control characters do not arrive."""
    with running(CHAT, "thread") as server, member_of(server.address, "ann") as ann:
        assert ann.ask("x" * 1500) == "ann: " + "x" * 1024
        assert ann.hear() == "ann: " + "x" * 476
        assert ann.ask("a\x1b[2J\rb\x07 \u00fc") == "ann: a[2Jb \u00fc"
        ann.client.sendall(b"\xff\xfe\r\n")
        assert ann.hear() == "ann: \ufffd\ufffd"


@pytest.mark.parametrize("transport", [0, 1], ids=["tcp", "unix"])
def test_a_member_who_never_reads_is_dropped(transport: int, tmp_path: Path) -> None:
    """While 10 MB are said the others hear every line, and that the deaf one is out."""
    with (
        running(CHAT, "thread", address=addresses(tmp_path)[transport]) as server,
        three(server.address) as (ann, bob, deaf),
    ):
        lines = [f"{number:05d}".ljust(1000, ".") for number in range(10_000)]

        def talk_or_listen(number: int) -> list[str]:
            if number < 2:
                return (ann, bob)[number].hear_until(f"ann: {lines[-1]}")
            ann.client.sendall("\n".join([*lines, ""]).encode())
            return []

        by_ann, by_bob, _ = at_once(3, talk_or_listen)
        out = "* cid reads too slowly and is out"
        assert by_ann.count(out) == 1
        assert by_ann == by_bob
        assert [line for line in by_bob if line != out] == [f"ann: {line}" for line in lines]
        assert ann.ask("/who") == "* here: ann, bob"
        assert len(read_to_end(deaf.client)) < 10_000_000


def test_a_stop_tells_the_members_and_ends_them_at_once() -> None:
    """The last line of each, with a nickname or not, says why; the server has not waited."""
    with (
        running(CHAT, "thread") as server,
        three(server.address) as members,
        visitor(server.address) as nameless,
    ):
        assert server.stop(timeout=5.0) == 0
        assert [member.hear_until(DOWN)[-1] for member in members] == [DOWN] * 3
        assert nameless.hear() == DOWN
        assert [member.hear() for member in (*members, nameless)] == [""] * 4


def test_fifty_members_come_at_once() -> None:
    """Each hears every line that is said when all are there, in the same order as the others."""
    with running(CHAT, "thread") as server, contextlib.ExitStack() as stack:
        members = at_once(50, lambda _: Member(connect(server.address)))
        for member in members:
            stack.callback(member.leave)

        def come(number: int) -> None:
            members[number].say(f"m{number}")
            members[number].hear_until(f"* m{number} has come")

        def talk_and_listen(number: int) -> list[str]:
            members[number].say("hello")
            heard = iter(members[number].hear, "")
            return list(islice(filter(re.compile(": hello$").search, heard), 50))

        at_once(50, come)
        heard = at_once(50, talk_and_listen)
        assert sorted(heard[0]) == sorted(f"m{number}: hello" for number in range(50))
        assert heard == [heard[0]] * 50


@pytest.mark.parametrize(
    "flags", [("process",), ("prefork", "-w", "2")], ids=lambda flags: flags[0]
)
def test_in_two_processes_there_are_two_rooms(flags: tuple[str, ...]) -> None:
    """Members of different processes are told different rooms, and do not see each other."""
    with (
        running(CHAT, *flags) as server,
        member_of(server.address, "ann") as ann,
        member_of(server.address, "ann") as other,
    ):
        assert ann.room != other.room
        assert ann.ask("hello?") == other.ask("hello?") == "ann: hello?"
        assert ann.ask("/who") == other.ask("/who") == "* here: ann"


def test_prefork_with_one_worker_and_threads_has_one_room() -> None:
    """All are in one process then, as in the thread mode."""
    with (
        running(CHAT, "prefork", "-w", "1", "--threads", "3") as server,
        three(server.address) as (ann, bob, cid),
    ):
        assert ann.room == bob.room == cid.room
        assert ann.ask("hello") == bob.hear() == cid.hear() == "ann: hello"


def test_iterative_serves_one_member_after_the_other() -> None:
    """The second is greeted when the first has left."""
    with (
        running(CHAT, "iterative") as server,
        member_of(server.address, "ann") as ann,
        connect(server.address) as waiting,
    ):
        assert ann.ask("anybody?") == "ann: anybody?"
        ann.say("/quit")
        assert GREETING.fullmatch(read_line(waiting).decode().rstrip("\n"))


@pytest.mark.parametrize("flags", [("process",), ("prefork",), ("iterative",)], ids=lambda f: f[0])
def test_a_stop_ends_members_in_every_mode(flags: tuple[str, ...]) -> None:
    """A quiet member hears of the stop, and is at the end, wherever he is served."""
    with running(CHAT, *flags) as server, member_of(server.address, "ann") as ann:
        assert server.stop(timeout=5.0) == 0
        assert ann.hear_until(DOWN) == [DOWN]
        assert ann.hear() == ""


@pytest.mark.parametrize("transport", [0, 1], ids=["tcp", "unix"])
def test_socat_comes_talks_and_leaves(transport: int, tmp_path: Path) -> None:
    """A client that nobody here wrote hears what it said, and the end of its connection."""
    requires("socat")
    with running(CHAT, "thread", address=addresses(tmp_path)[transport]) as server:
        peer = (
            f"TCP:127.0.0.1:{port_of(server.address)}"
            if transport == 0
            else f"UNIX-CONNECT:{path_of(server.address)}"
        )
        ran = subprocess.run(
            ["socat", "-t", "10", "-", peer],
            input="ann\nhello\n/quit\n",
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
    assert ran.stdout.splitlines()[1:] == ["* ann has come", "ann: hello"]
