"""The benchmark of the book's designs: each of them serves, and what is made of the figures."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from benchmarks.servers import CHECKOUT, Server
from benchmarks.unp import (
    BOOK_ORDER,
    DESIGNS,
    WHY_DEARER,
    Design,
    explain,
    fairness,
    find_surprises,
    require_whole,
    share_out,
)
from benchmarks.unp_client import Ask
from benchmarks.unp_designs import PATTERN
from forkserve.bench.conversation import ReadToEnd, ReadUntil, Send, WrongAnswer
from forkserve.bench.load import Load, Order
from forkserve.bench.rounds import Generator, LoadFailed, Turn, take_turn

WHO = b"%019d\n" % 77
BODY = PATTERN[: 4000 - len(WHO)]
CHILDREN = 3
CONNECTIONS = 24
MOST_IDS = {
    "iterative": 1,
    "fork_each": CONNECTIONS,
    "thread_each": CONNECTIONS,
    "prefork": CHILDREN,
    "prefork_file_lock": CHILDREN,
    "prefork_semaphore": CHILDREN,
    "prefork_passing": CHILDREN,
    "prethread_lock": CHILDREN,
    "prethread_main": CHILDREN,
    "epoll_herd": CHILDREN,
    "epoll_exclusive": CHILDREN,
    "epoll_renewed": CHILDREN,
    "reuseport": CHILDREN,
}


def load(server: Server) -> tuple[dict[str, int], Counter[int]]:
    """Put a little load on a server; return what became of it, and who served how many."""
    ask = Ask(4000, Counter())
    result = Load(Order(server.address, 5, 20.0, connections=CONNECTIONS), ask).run()
    return {name: count for name, count in result.outcomes.items() if count}, ask.tally


def answer(ask: Ask, who: bytes, body: bytes) -> None:
    """Lead a conversation to its end."""
    talk = ask(1)
    assert next(talk) == Send(b"4000\n")
    assert talk.send(b"") == ReadUntil(b"\n")
    assert talk.send(who) == ReadToEnd()
    with pytest.raises(StopIteration):
        talk.send(body)


@pytest.mark.parametrize(("design", "most"), MOST_IDS.items(), ids=list(MOST_IDS))
def test_every_design_answers_every_client_by_one_of_its_own(design: str, most: int) -> None:
    """A minimal loop answers all, and no more children answer than there are."""
    command = [sys.executable, "benchmarks/unp_designs.py", design, str(CHILDREN)]
    with Server(command) as server:
        outcomes, shares = load(server)
        server.stop()
    assert outcomes == {"ok": CONNECTIONS}
    assert sum(shares.values()) == CONNECTIONS
    assert len(shares) <= most


@pytest.mark.parametrize("design", ["fork_each", "thread_each"])
def test_each_client_gets_its_own(design: str) -> None:
    """Where a child or a thread is made for each client, no two clients share one."""
    command = [sys.executable, "benchmarks/unp_designs.py", design, "0"]
    with Server(command) as server:
        _, shares = load(server)
        server.stop()
    assert set(shares.values()) == {1}


def test_the_loops_leave_no_child_behind() -> None:
    """At TERM a parent ends and collects every child before it goes."""
    with Server([sys.executable, "benchmarks/unp_designs.py", "prefork", "3"]) as server:
        server.stop()
    assert server.process.returncode == 0


def test_a_good_answer_is_counted_for_who_gave_it() -> None:
    """The id at its beginning tells who served a connection."""
    ask = Ask(4000, Counter())
    answer(ask, WHO, BODY)
    assert ask.tally == {77: 1}


@pytest.mark.parametrize(
    "body", [BODY[:-1], BODY + b"!", b"?" + BODY[1:]], ids=["short", "long", "other"]
)
def test_every_byte_is_checked(body: bytes) -> None:
    """An answer that is not whole, goes on or differs is wrong, and counts for nobody."""
    ask = Ask(4000, Counter())
    with pytest.raises(WrongAnswer):
        answer(ask, WHO, body)
    assert not ask.tally


def test_what_client_processes_have_counted_comes_with_the_turn() -> None:
    """Who served how many is known of each turn."""
    with Server([sys.executable, "benchmarks/unp_designs.py", "prefork", "3"]) as server:
        turn = take_turn(
            server, Generator(Ask(4000, Counter())), Order(server.address, 4, 30.0, connections=40)
        )
    assert sum(turn.tally.values()) == 40
    assert len(turn.tally) <= 3


def test_an_answer_without_an_id_is_wrong() -> None:
    """Whoever answers says who it is, in all the bytes that there are for it."""
    with pytest.raises(WrongAnswer, match="no id"):
        answer(Ask(4000, Counter()), b"77\n", BODY)


def test_who_served_none_counts_as_well() -> None:
    """Children that stood ready for nothing are part of how connections were shared."""
    shares = share_out([6, 2], 4)
    assert (shares.least, shares.middle, shares.most) == (0, 1.0, 6)
    assert shares.fairness == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("counts", "index"), [([5, 5, 5], 1.0), ([15, 0, 0], 1 / 3)], ids=["equal", "one has all"]
)
def test_fairness_is_jains_index(counts: list[int], index: float) -> None:
    """It is 1 where all are equal, and 1/n where one of n has all."""
    assert fairness(counts) == pytest.approx(index)


def test_a_pair_in_another_order_than_the_books_is_found() -> None:
    """A thread that costs more than a child is one, for sure in every round."""
    cpu = {"thread_each": [3.0, 3.1, 3.2], "prefork": [1.0, 1.0, 1.0], "fork_each": [9.0, 9.0, 9.0]}
    (found,) = find_surprises(cpu)
    assert (found.book_less, found.book_more) == ("thread_each", "prefork")


def test_a_pair_that_rounds_disagree_on_is_none() -> None:
    """An interval that has 1 in it tells nothing apart."""
    cpu = {"thread_each": [3.0, 0.5, 1.2], "prefork": [1.0, 1.0, 1.0]}
    assert find_surprises(cpu) == []


def test_what_differs_is_explained_once() -> None:
    """A design that is dearer here than two others has one explanation."""
    flat = [1.0, 1.0, 1.0]
    cpu = {"thread_each": [3.0, 3.0, 3.0], "prefork": flat, "prefork_passing": flat}
    (line,) = explain(find_surprises(cpu))
    assert line.startswith("thread per client: ")


def test_explanations_are_of_the_books_designs() -> None:
    """What is said to differ from the book stands in the book."""
    assert set(WHY_DEARER) < set(BOOK_ORDER)
    assert set(BOOK_ORDER) == {one.key for one in DESIGNS if one.number != "-" and not one.is_ours}


@pytest.mark.parametrize("design", DESIGNS, ids=lambda design: design.key)
def test_each_design_is_measured_against_its_own_family(design: Design) -> None:
    """What forkserve runs is compared with forkserve, a minimal loop with a minimal loop."""
    (baseline,) = [one for one in DESIGNS if one.key == design.baseline]
    assert baseline.runner == design.runner
    assert baseline.number == "0"


def test_a_turn_that_lacks_connections_does_not_count() -> None:
    """Nobody is compared by fewer connections than the others had."""
    turn = Turn(9, {}, 1.0, 1.0, 0.1, 0.1, 0.1, 0.5, 0.5, 0.0)
    with pytest.raises(LoadFailed, match="9 of 10"):
        require_whole("prefork", turn, 10)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Run the script as a user does, on a few designs, from somewhere else."""
    path: Path = tmp_path_factory.mktemp("unp") / "unp.json"
    only = ["fork_each", "reuseport", "forkserve-prefork", "crowd"]
    command = [sys.executable, str(CHECKOUT / "benchmarks/unp.py"), "--quick", "--json", str(path)]
    done = subprocess.run(
        [*command, "--only", *only], capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(path.read_text())


@pytest.mark.heavy
@pytest.mark.timeout(120)
def test_the_table_has_the_designs_and_both_baselines(report: Any) -> None:
    """What is asked for is there, with what it is compared with, and who runs it."""
    rows = [row[:3] for row in report["tables"][0]["rows"]]
    assert rows == [
        ["iterative", "minimal", "0"],
        ["fork per client", "minimal", "1"],
        ["prefork, SO_REUSEPORT", "minimal", "-"],
        ["iterative", "forkserve", "0"],
        ["prefork, EPOLLEXCLUSIVE", "forkserve", "-"],
    ]


@pytest.mark.heavy
@pytest.mark.timeout(120)
def test_every_row_is_explained(report: Any) -> None:
    """Below the table each design says in a sentence what it does."""
    notes = report["tables"][0]["notes"]
    assert sum(note.startswith("fork per client (minimal) forks") for note in notes) == 1


@pytest.mark.heavy
@pytest.mark.timeout(120)
def test_two_runs_can_be_held_against_each_other(report: Any) -> None:
    """Each design has its ratio to the baseline of its family."""
    assert report["ratios"]["CPU, fork per client (minimal) / iterative (minimal)"]["median"] > 1
    assert "CPU, prefork, EPOLLEXCLUSIVE (forkserve) / iterative (forkserve)" in report["ratios"]


@pytest.mark.heavy
@pytest.mark.timeout(120)
def test_more_children_than_needed_have_a_table_and_charts(report: Any) -> None:
    """For every way to wait there is a row for every number of children."""
    crowd = report["tables"][2]
    assert len(crowd["rows"]) == 8
    titles = [chart["title"] for chart in report["charts"]]
    assert titles[-2:] == ["Process control by children", "Fairness by children"]
