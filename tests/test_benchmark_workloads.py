"""The benchmark of what each mode is for: what it decides from figures, and that it runs."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.servers import CHECKOUT
from benchmarks.workload_handlers import (
    ANSWER,
    CRASH,
    CRASH_EVERY,
    LARGE,
    QUESTION,
    CrashingClients,
    LargeAnswer,
)
from benchmarks.workload_results import (
    DEFAULT,
    NOT_SERVED,
    Decision,
    Outcome,
    Standing,
    Workload,
    count_deaths,
    decide,
    lost_for_each,
    places,
    unexpected,
)
from benchmarks.workload_tables import show_over_default, summarize, whom_to_compare, why
from benchmarks.workloads import (
    MODES,
    NAMES,
    WORKLOADS,
    how_many_to_hold,
    idle_modes,
    start,
)
from forkserve.bench.conversation import Pause, Read, ReadExactly, ReadToEnd, Send, WrongAnswer
from forkserve.bench.figures import Ratio
from forkserve.bench.load import Load, Order
from forkserve.bench.rounds import LoadFailed, Turn, describe_failures

SEVEN = (100.0, 101.0, 99.0, 102.0, 98.0, 100.0, 101.0)
SURE = Ratio(2.0, 1.9, 2.1)


def standing(factor: float, figures: tuple[float, ...] = SEVEN) -> Standing:
    """Return figures that are so many times these."""
    return Standing(tuple(factor * figure for figure in figures))


def turn(
    ok: int = 100,
    failures: dict[str, int] | None = None,
    *,
    cpu: float = 1.0,
    p99: float = 0.02,
) -> Turn:
    """Return a turn of one second."""
    return Turn(
        ok=ok,
        failures=failures or {},
        seconds=1.0,
        cpu=cpu,
        p50=0.01,
        p99=p99,
        p999=p99,
        generator=0.1,
        generator_cpu=0.1,
        elsewhere=0.0,
    )


def run(tmp_path: Path, *names: str) -> tuple[str, dict[str, Any]]:
    """Run the script for these workloads; return what it prints and what it writes."""
    file = tmp_path / "workloads.json"
    script = [sys.executable, "benchmarks/workloads.py", "--quick", "--only", *names]
    done = subprocess.run(
        [*script, "--json", str(file)],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, json.loads(file.read_text())


# -- who is best


def test_the_best_in_every_round_wins() -> None:
    """Whoever is better in all rounds wins, with its ratio to the next and to the default."""
    found = decide({"a": standing(3), "b": standing(2), DEFAULT: standing(1)}, DEFAULT)
    assert (found.best, found.next) == (("a",), "b")
    assert found.over_next is not None
    assert found.over_next.median == pytest.approx(1.5)
    assert found.over_default is not None
    assert found.over_default.median == pytest.approx(3)


def test_what_the_interval_does_not_tell_apart_is_a_tie() -> None:
    """Modes of which now one is better and now the other tie; the next is who is surely worse."""
    moved = tuple(SEVEN[n - 2] for n in range(7))
    found = decide({"a": standing(1), "b": Standing(moved), "c": standing(0.5)}, "c")
    assert found.is_tie
    assert set(found.best) == {"a", "b"}
    assert found.next == "c"


def test_equal_figures_tie() -> None:
    """Modes with the same figures are told apart by nothing."""
    found = decide({"a": standing(1), "b": standing(1)}, "a")
    assert found == Decision(("a", "b"), "", None, None)


def test_noise_makes_a_tie_of_unequal_medians() -> None:
    """Twice the median wins nothing if the rounds contradict each other."""
    noise = Standing((400.0, 50.0, 210.0, 60.0, 500.0, 40.0, 205.0))
    assert decide({"a": noise, "b": standing(1)}, "b").is_tie


def test_failures_exclude() -> None:
    """A mode with a fault wins nothing, however fast it was, and is nobody's next."""
    fast = Standing(standing(9).figures, "loses 3.0 for a crash")
    found = decide({"fast": fast, "a": standing(2), "b": standing(1)}, "fast")
    assert found.best == ("a",)
    assert found.next == "b"
    assert found.over_default is None


def test_nobody_wins_if_all_have_faults() -> None:
    """Where nobody is without a fault the summary names none."""
    standings = {DEFAULT: Standing((), "3 reset")}
    line = summarize("waiting", standings, decide(standings, DEFAULT), "")
    assert line[:2] == ("waiting", "none")


def test_one_round_tells_nobody_apart() -> None:
    """A single pair has no interval, so it decides nothing."""
    assert decide({"a": Standing((9.0,)), "b": Standing((1.0,))}, "b").is_tie


@pytest.mark.parametrize(("factor", "is_tie"), [(1.05, True), (1.5, False)])
def test_few_rounds_must_leave_room(factor: float, is_tie: bool) -> None:
    """The interval of two rounds is narrow by chance, so a few per cent decide nothing."""
    two = (100.0, 100.5)
    assert decide({"a": standing(factor, two), "b": standing(1, two)}, "b").is_tie is is_tie


def test_the_summary_says_tie_noise_and_default() -> None:
    """A line names all who tie, marks a noisy ratio, and says who is the default itself."""
    noisy = Decision((DEFAULT, "a"), "b", Ratio(2.0, 1.2, 3.0), None)
    standings = {DEFAULT: standing(2), "a": standing(2), "b": standing(1)}
    assert summarize("mixed", standings, noisy, "why") == (
        "mixed",
        f"a tie: {DEFAULT}, a",
        "2.00 x [1.20 3.00] noisy b",
        "is the default",
        "why",
    )


def test_a_default_with_a_fault_is_no_measure() -> None:
    """Where the default has no figure, its fault stands in place of the ratio."""
    standings = {DEFAULT: Standing((), NOT_SERVED), "a": standing(1)}
    found = decide(standings, DEFAULT)
    assert show_over_default(standings, found) == f"default: {NOT_SERVED}"


@pytest.mark.parametrize(
    ("best", "default_fault", "expected"),
    [(("a",), "", DEFAULT), (("a", DEFAULT), "", "b"), (("a",), "3 reset", "b")],
)
def test_the_reason_compares_with_who_is_worse(
    best: tuple[str, ...], default_fault: str, expected: str
) -> None:
    """The reason is told beside the default, if that is worse and has figures, else the next."""
    standings = {DEFAULT: Standing((), default_fault)}
    assert whom_to_compare(Decision(best, "b", SURE, None), standings) == expected


@pytest.mark.parametrize(
    ("workload", "expected"),
    [
        ("computing", "CPUs busy: 1.9, prefork 1.0"),
        ("waiting", "waits at a time: 4.0, prefork 1.0"),
        ("large", "CPU each: 4.75 ms, prefork 10.0 ms"),
        ("slow-readers", "p99: 1.00 ms, prefork 20.0 ms"),
    ],
)
def test_the_reason_is_a_figure_of_the_workload(workload: str, expected: str) -> None:
    """Each workload has its own reason, with the figures of the best and of the default."""
    outcomes = {
        "a": Outcome([turn(400, cpu=1.9, p99=0.001)]),
        DEFAULT: Outcome([turn(100)]),
    }
    assert why(WORKLOADS[workload], outcomes, Decision(("a",), DEFAULT, SURE, SURE)) == expected


def test_the_reason_for_a_survivor_is_who_loses_most() -> None:
    """Where crashes cost others their connections, that is why the best is best."""
    outcomes = {
        DEFAULT: Outcome([turn(400, {"cut short": 2})], deaths=2),
        "thread": Outcome([turn(800, {"cut short": 10, "reset": 2})], deaths=2),
    }
    found = decide({name: one.standing for name, one in outcomes.items()}, DEFAULT)
    assert found.best == (DEFAULT,)
    reason = why(WORKLOADS["crashes"], outcomes, found)
    assert reason == "0 others lost for a crash, thread 5.0"


# -- what counts


def test_a_crash_costs_the_others_beside_its_own_client() -> None:
    """Of those cut off, one for each death has asked for it; without a death nothing is known."""
    assert lost_for_each({"cut short": 5, "reset": 1}, 2) == 2.0
    assert math.isnan(lost_for_each({}, 0))


def test_a_death_without_a_lost_client_is_none_of_ours() -> None:
    """Processes that die more often than clients are lost die of something else."""
    with pytest.raises(LoadFailed, match="3 processes died"):
        lost_for_each({"cut short": 2}, 3)


def test_only_a_crash_may_cut_clients_off() -> None:
    """A lost client is expected in the workload with crashes alone, a silent server in none."""
    failures = {"cut short": 2, "unanswered": 1}
    assert unexpected(failures, has_crashes=True) == {"unanswered": 1}
    assert unexpected(failures, has_crashes=False) == failures
    assert describe_failures(failures) == "2 cut short, 1 unanswered"


def test_deaths_are_read_from_the_log() -> None:
    """Each process that a signal of ours has killed counts, whatever the mode; others do not."""
    said = (
        "[1] [ERROR] worker 12 was killed by SIGSEGV (core dumped) while serving; another starts\n"
        "[2] [ERROR] connection process 13 was killed by SIGSEGV while serving 127.0.0.1\n"
        "[2] [ERROR] worker 14 was killed by SIGKILL; another one starts in 0.0 s\n"
    )
    assert count_deaths(said) == 2


@pytest.mark.parametrize("workload", WORKLOADS.values(), ids=list(WORKLOADS))
def test_a_wrong_answer_ends_it_all(workload: Workload) -> None:
    """A wrong answer is never counted as a loss, not even where crashes are expected."""
    with pytest.raises(LoadFailed, match="1 wrong answer"):
        Outcome().judge("thread", turn(9, {"wrong answer": 1}), workload)


def test_a_turn_with_failures_leaves_no_figure() -> None:
    """One reset connection takes a mode's figures away, those of its good rounds too."""
    outcome = Outcome()
    outcome.judge("thread", turn(9), WORKLOADS["waiting"])
    outcome.judge("thread", turn(9, {"reset": 1}), WORKLOADS["waiting"])
    assert outcome.standing == Standing((), "1 reset")
    assert math.isnan(outcome.middle(lambda one: one.throughput))


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("iterative", 1),
        ("thread", math.inf),
        ("process --spare 4", math.inf),
        ("prefork", 4),
        ("prefork --threads 16", 64),
    ],
)
def test_idle_connections_take_the_places_of_a_mode(mode: str, expected: float) -> None:
    """How many are served at the same time follows from the mode and the CPUs."""
    assert places(MODES[mode], 4) == expected


def test_little_memory_allows_fewer_idle_connections() -> None:
    """What is held is bounded by the memory there is."""
    assert how_many_to_hold(50, 10**9) == 50
    assert how_many_to_hold(50, 4_000_000) == 10


# -- clients and handlers


def test_one_client_in_a_hundred_asks_for_a_crash() -> None:
    """The crashing client says so, and an answer to it would be wrong."""
    asked = [next(CrashingClients()(number)) for number in range(1, 2 * CRASH_EVERY + 1)]
    assert asked.count(Send(CRASH)) == 2
    talk = CrashingClients()(1 + asked.index(Send(CRASH)))
    next(talk)
    assert next(talk) == ReadExactly(len(ANSWER))
    with pytest.raises(WrongAnswer):
        talk.send(ANSWER)


def test_a_slow_reader_rests_after_each_piece_and_checks_it() -> None:
    """It reads the size it was told, rests, and notices a piece that is not the next one."""
    talk = LargeAnswer(QUESTION, piece=500_000, rest=0.5)(1)
    assert [next(talk), next(talk)] == [Send(QUESTION), ReadExactly(500_000)]
    assert talk.send(LARGE[:500_000]) == Pause(0.5)
    assert next(talk) == ReadExactly(500_000)
    with pytest.raises(WrongAnswer):
        talk.send(LARGE[:500_000])


def test_a_quick_reader_notices_what_follows_the_answer() -> None:
    """It takes what there is, until all is there, and nothing may follow."""
    talk = LargeAnswer(QUESTION)(1)
    assert [next(talk), next(talk)] == [Send(QUESTION), Read()]
    assert talk.send(LARGE) == ReadToEnd()
    with pytest.raises(WrongAnswer):
        talk.send(b"more")


@pytest.mark.parametrize("workload", WORKLOADS.values(), ids=list(WORKLOADS))
def test_every_workload_is_answered_as_its_clients_expect(workload: Workload) -> None:
    """Handler and clients of each workload agree about every byte."""
    with start(workload.handler, MODES["thread"]) as server:
        found = Load(Order(server.address, 2, 20.0, connections=4), workload.talk).run()
    assert (found.outcomes["ok"], found.complaint) == (4, "")


# -- the script


@pytest.mark.heavy
@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", ["waiting", "slow-readers"])
def test_it_measures_every_mode_under_a_workload(tmp_path: Path, name: str) -> None:
    """It prints and keeps a table with every mode, a summary, a chart, and ratios to prefork."""
    said, kept = run(tmp_path, name)
    table, summary = kept["tables"]
    assert [row[0] for row in table["rows"]] == list(MODES)
    assert [row[-1] for row in table["rows"]] == ["none"] * len(MODES)
    assert [row[0] for row in summary["rows"]] == [name]
    assert kept["charts"][0]["points"] == list(MODES)
    assert set(kept["ratios"]) == {
        f"{name}: {mode} / {DEFAULT}" for mode in MODES if mode != DEFAULT
    }
    assert "winner" in said
    assert kept["environment"]["CPUs"] > 0


@pytest.mark.heavy
@pytest.mark.timeout(180)
def test_it_counts_who_is_lost_by_a_crash(tmp_path: Path) -> None:
    """Processes die in every mode, and who serves one at a time loses nobody else by it."""
    _, kept = run(tmp_path, "crashes")
    table = kept["tables"][0]
    rows = {row[0]: dict(zip(table["columns"], row, strict=True)) for row in table["rows"]}
    assert all(int(row["died"]) > 0 for row in rows.values())
    assert {rows[mode]["lost"] for mode in MODES if "thread" not in mode} == {"0.0"}


@pytest.mark.heavy
@pytest.mark.timeout(180)
def test_it_shows_who_serves_nobody_beside_idle_connections(tmp_path: Path) -> None:
    """Modes whose places are all taken have no figure; of processes, fewer are held, and marked."""
    _, kept = run(tmp_path, "idle")
    table = kept["tables"][0]
    rows = {row[0]: row for row in table["rows"]}
    assert list(rows) == list(idle_modes(500))
    assert rows["iterative"][2:] == ["-"] * 6 + [NOT_SERVED]
    assert rows["prefork"][-1] == NOT_SERVED
    assert rows["thread"][-1] == "none"
    assert rows["process"][3].endswith(" *")


def test_an_unknown_workload_is_refused() -> None:
    """The names of the workloads are in the message."""
    script = [sys.executable, "benchmarks/workloads.py", "--only", "nothing"]
    done = subprocess.run(script, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert all(name in done.stderr for name in NAMES)
