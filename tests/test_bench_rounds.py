"""Client processes make the load together, and variants get their turns in rounds."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from forkserve.bench.conversation import Exchange, Script, ScriptError
from forkserve.bench.load import Order, Result
from forkserve.bench.rounds import (
    Generator,
    LoadFailed,
    Turn,
    middle,
    require_good,
    run_rounds,
    shuffled,
    summarize,
    take_turn,
)
from forkserve.bench.server import Server, ServerFailed
from forkserve.bench.usage import tree
from tests.support.processes import descendants
from tests.support.scripted import Scripted, answer_all, serving
from tests.support.waiting import Stopwatch, eventually
from tests.test_bench_usage import LISTEN

PING = Exchange(b"ping\n", b"pong\n")
SHORT = Exchange(b"ping", b"pong")


@pytest.fixture
def echo() -> Iterator[Scripted]:
    """Return a server that answers every line."""
    with serving(answer_all, at_once=32) as server:
        yield server


def start(stack: ExitStack, folder: Path, body: str = "ready()\nserve()") -> Server:
    """Start a server of a body in a process."""
    path = folder / "serve.py"
    path.write_text(f"{LISTEN}\n{body}\n")
    return stack.enter_context(Server([sys.executable, str(path)]))


# -- client processes


@pytest.mark.parametrize(("clients", "connections"), [(1, 7), (3, 50), (4, 3)])
def test_shares_make_the_whole(echo: Scripted, clients: int, connections: int) -> None:
    """Several client processes together make as many connections as were ordered."""
    order = Order(echo.address, 8, 30.0, connections=connections)
    results = Generator(PING, clients=clients).run(order)
    assert len(results) == min(clients, connections)
    assert sum(result.outcomes["ok"] for result in results) == connections
    assert echo.connections == connections


def test_concurrency_is_shared(echo: Scripted) -> None:
    """Several client processes together keep as many connections as were ordered."""
    order = Order(echo.address, 5, 1.5, requests=0)
    results = Generator(PING, clients=2).run(order)
    assert all(result.outcomes["ok"] for result in results)
    assert echo.connections == 5


def test_rate_is_shared(echo: Scripted) -> None:
    """Several client processes together make the rate that was ordered."""
    results = Generator(PING, clients=2).run(Order(echo.address, 8, 1.0, rate=100.0))
    assert [result.outcomes["ok"] for result in results] == [50, 50]


def test_more_clients_than_connections_at_a_time(echo: Scripted) -> None:
    """A client process that had nothing to do is not started."""
    results = Generator(PING, clients=4).run(Order(echo.address, 2, 30.0, connections=10))
    assert [result.outcomes["ok"] for result in results] == [5, 5]


def test_killed_client_is_load_failed(echo: Scripted) -> None:
    """A client process that is killed makes the load fail, and the others do not stay."""
    generator = Generator(PING, clients=2)

    def kill() -> None:
        generator.running[1].kill()

    with pytest.raises(LoadFailed, match="ended with status -9"):
        generator.run(Order(echo.address, 2, 0.5), during=kill)
    assert generator.running == []


def test_client_that_cannot_start_is_load_failed(echo: Scripted) -> None:
    """A client process that ends before it has heard what to do makes the load fail."""
    with pytest.raises(LoadFailed, match="ended with status"):
        Generator(PING, cpus=[4095]).run(Order(echo.address, 1, 0.1))


def test_terminated_client_gives_its_result(echo: Scripted) -> None:
    """A client process that is asked to end does so early, and tells what it has."""
    generator = Generator(PING)
    watch = Stopwatch()

    def terminate() -> None:
        eventually(lambda: echo.connections > 0, timeout=20)
        generator.running[0].terminate()

    thread = threading.Thread(target=terminate)
    thread.start()
    [result] = generator.run(Order(echo.address, 1, 50.0, requests=0))
    thread.join()
    assert watch.seconds < 40
    assert result.outcomes["ok"] > 0


def test_interrupt_leaves_no_client(echo: Scripted) -> None:
    """Ctrl-C while the load runs ends all client processes."""
    generator = Generator(PING, clients=2)

    def interrupt() -> None:
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        generator.run(Order(echo.address, 2, 0.5), during=interrupt)
    assert generator.running == []
    assert descendants(os.getpid()) == []


def test_script_error_comes_through(echo: Scripted, tmp_path: Path) -> None:
    """What is wrong with a script is raised where the load was ordered."""
    path = tmp_path / "talk.py"
    path.write_text("def converse(number):\n    raise ValueError('no')\n    yield\n")
    with pytest.raises(ScriptError, match=r"talk\.py raised ValueError: no in line 2"):
        Generator(Script(str(path)), clients=2).run(Order(echo.address, 2, 30.0))


def test_script_may_print(echo: Scripted, tmp_path: Path) -> None:
    """What a script prints is no part of the result."""
    path = tmp_path / "talk.py"
    path.write_text(
        "from forkserve.bench.conversation import ReadUntil, Send\n"
        "print('loaded')\n"
        "def converse(number):\n"
        "    yield Send(b'ping\\n')\n"
        "    print((yield ReadUntil(b'\\n')), flush=True)\n"
    )
    [result] = Generator(Script(str(path))).run(Order(echo.address, 1, 30.0, connections=3))
    assert result.outcomes["ok"] == 3


def test_script_that_leaves_is_load_failed(echo: Scripted, tmp_path: Path) -> None:
    """A script that ends its process is no result."""
    path = tmp_path / "talk.py"
    path.write_text("import os\ndef converse(number):\n    os._exit(0)\n    yield\n")
    with pytest.raises(LoadFailed, match="without a result"):
        Generator(Script(str(path))).run(Order(echo.address, 1, 30.0))


def test_more_connections_than_descriptors(echo: Scripted) -> None:
    """A client process may hold more connections than it is allowed descriptors at first."""
    order = Order(echo.address, 1500, 20.0, connections=1500, patience=60.0)
    [result] = Generator(PING).run(order)
    assert {name for name, count in result.outcomes.items() if count} == {"ok"}


def test_client_processes_that_stay(echo: Scripted) -> None:
    """Within a block one order after another is for the same processes; then they end."""
    with Generator(PING, clients=2) as generator:
        firsts = generator.run(Order(echo.address, 2, 30.0, connections=4))
        pids = [process.pid for process in generator.running]
        others = generator.run(Order(echo.address, 2, 30.0, connections=6))
        assert [process.pid for process in generator.running] == pids
    assert [result.outcomes["ok"] for result in (*firsts, *others)] == [2, 2, 3, 3]
    assert generator.running == []
    assert descendants(os.getpid()) == []


def test_client_processes_do_not_stay_after_a_failure(echo: Scripted) -> None:
    """An order that fails ends them, and the next one begins with others."""
    with Generator(PING) as generator:

        def kill() -> None:
            generator.running[0].kill()

        with pytest.raises(LoadFailed, match="ended with status -9"):
            generator.run(Order(echo.address, 2, 0.5), during=kill)
        assert generator.running == []
        [result] = generator.run(Order(echo.address, 1, 30.0, connections=3))
    assert result.outcomes["ok"] == 3


# -- turns and rounds


def test_turn_tells_what_a_server_did(tmp_path: Path) -> None:
    """A turn's figures are of the order of what was done."""
    with ExitStack() as stack:
        server = start(stack, tmp_path, "ready()\nserve(lambda: burn(0.002))")
        turn = take_turn(server, Generator(SHORT), Order(server.address, 2, 0.6))
    assert turn.ok > 10
    assert turn.failures == {}
    assert 0.5 <= turn.seconds < 20
    assert 0.0019 < turn.cpu_each < 0.1
    assert 0 < turn.p50 <= turn.p99 <= turn.p999 <= turn.slowest
    assert 0 < turn.generator <= 1.05
    assert 0 <= turn.elsewhere < (os.cpu_count() or 1) + 0.5
    assert turn.memory > 1_000_000
    assert turn.as_json()["throughput"] == turn.ok / turn.seconds


def test_server_that_dies_under_load_is_found(tmp_path: Path) -> None:
    """A server that ends under load has failed, with what it said."""
    body = "ready()\nserve(lambda: sys.exit('out of order'))"
    with ExitStack() as stack:
        server = start(stack, tmp_path, body)
        with pytest.raises(ServerFailed, match=r"ended under load[^$]*out of order"):
            take_turn(server, Generator(SHORT), Order(server.address, 1, 0.3))
        server.kill()


@pytest.mark.heavy
def test_every_variant_has_its_turn_in_every_round(tmp_path: Path) -> None:
    """Each server has one turn a round in the order of the round; the warm-up is not returned."""
    seen: list[str] = []
    with ExitStack() as stack:
        servers = {name: start(stack, tmp_path) for name in ("a", "b", "c")}
        asked: list[str] = []

        def make_order(server: Server) -> Order:
            asked.append(next(name for name, one in servers.items() if one is server))
            return Order(server.address, 1, 0.1)

        found = run_rounds(
            servers,
            Generator(SHORT),
            make_order,
            2,
            warm_up=0.05,
            on_turn=lambda name, turn: seen.append(name),
        )
    assert {name: len(turns) for name, turns in found.items()} == {"a": 2, "b": 2, "c": 2}
    assert asked == [*shuffled("abc", 0), *shuffled("abc", 1), *shuffled("abc", 2)]
    assert seen == asked[3:]


def test_no_warm_up(tmp_path: Path) -> None:
    """Without a warm-up the first turn counts."""
    with ExitStack() as stack:
        servers = {"a": start(stack, tmp_path)}
        asked: list[Server] = []

        def make_order(server: Server) -> Order:
            asked.append(server)
            return Order(server.address, 1, 30.0, connections=5)

        found = run_rounds(servers, Generator(SHORT), make_order, 1, warm_up=0)
    assert [turn.ok for turn in found["a"]] == [5]
    assert len(asked) == 1


def test_memory_measured_once(tmp_path: Path) -> None:
    """Where it is not measured in each turn, all turns have that of the warm-up."""
    with ExitStack() as stack:
        servers = {"a": start(stack, tmp_path)}
        found = run_rounds(
            servers,
            Generator(SHORT),
            lambda server: Order(server.address, 1, 0.1),
            2,
            warm_up=0.1,
            weighs_each=False,
        )
    first, second = (turn.memory for turn in found["a"])
    assert first == second > 1_000_000


def test_a_turn_ends_when_its_processes_have(tmp_path: Path) -> None:
    """The CPU of a child that ends a little after the last answer is part of the turn."""
    body = (
        "signal.signal(signal.SIGCHLD, lambda *_: os.wait())\n"
        "def leave_a_child():\n"
        "    if os.fork() == 0:\n"
        "        burn(0.03)\n"
        "        os._exit(0)\n"
        "ready()\n"
        "serve(leave_a_child)"
    )
    turns = []
    with ExitStack() as stack:
        server = start(stack, tmp_path, body)
        for _ in range(5):  # on a busy machine a child may last for too long
            order = Order(server.address, 1, 30.0, connections=1)
            turns.append(take_turn(server, Generator(SHORT), order))
            eventually(lambda: len(tree(server.pid)) == 1)
    assert max(turn.cpu_each for turn in turns) >= 0.02


def test_error_names_the_variant(tmp_path: Path) -> None:
    """What fails in a turn comes with the name of the variant."""
    with ExitStack() as stack:
        server = start(stack, tmp_path, "ready()\nserve(lambda: sys.exit('out of order'))")
        with pytest.raises(ServerFailed, match=r"^prefork: the server ended"):
            run_rounds({"prefork": server}, Generator(SHORT), lambda s: Order(s.address, 1, 0.2), 1)
        server.kill()


def test_order_of_rounds_is_shuffled_and_the_same_each_time() -> None:
    """The order of a round is its own, and always the same."""
    orders = [shuffled("abcdef", number) for number in range(20)]
    assert orders == [shuffled("abcdef", number) for number in range(20)]
    assert all(sorted(order) == list("abcdef") for order in orders)
    assert len({tuple(order) for order in orders}) > 10


# -- what turns say


def result(ok: int = 0, seconds: float = 1.0, **others: int) -> Result:
    """Return the result of a client process."""
    one = Result(seconds=seconds, cpu=seconds / 2)
    one.outcomes["ok"] = ok
    one.outcomes.update(others)
    one.latencies.extend(n / 1000 for n in range(1, ok + 1))
    return one


def turn_of(*results: Result) -> Turn:
    """Return the turn of some results."""
    return summarize(results, cpu=0.5, delay=0.0, elsewhere=0.0, held=1)


def test_turn_is_the_sum_of_its_clients() -> None:
    """Counts add up, and percentiles are of all latencies together."""
    turn = turn_of(result(100), result(50, seconds=2.0, reset=3), result(0, reset=1))
    assert (turn.ok, turn.failures, turn.failed) == (150, {"reset": 4}, 4)
    assert (turn.seconds, turn.generator, turn.generator_cpu) == (2.0, 0.5, 2.0)
    assert (turn.p50, turn.slowest) == (0.038, 0.1)
    assert turn.throughput == 75.0


def test_turn_without_a_good_answer_has_no_figures() -> None:
    """Without a good answer no time and no cost are made up."""
    turn = turn_of(result(0, refused=2))
    assert turn.p50 != turn.p50
    assert turn.cpu_each != turn.cpu_each
    assert turn.throughput == 0


def test_turn_with_failures_does_not_count() -> None:
    """One failure is enough, and so is no answer at all."""
    require_good("a", turn_of(result(3)))
    with pytest.raises(LoadFailed, match=r"^a: 1 reset beside 3 good answers"):
        require_good("a", turn_of(result(3, reset=1)))
    with pytest.raises(LoadFailed, match=r"^a: nothing beside 0 good answers"):
        require_good("a", turn_of(result(0)))


def test_middle_is_the_median() -> None:
    """One slow round does not move the middle."""
    turns = [turn_of(result(count)) for count in (10, 11, 500)]
    assert middle(turns, lambda turn: turn.throughput) == 11
