"""`forkserve bench`: what it recommends on real runs, how it fails, and that nothing is left."""

import contextlib
import json
import os
import re
import select
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from signal import SIGINT, SIGTERM
from typing import Any

import pytest

from forkserve.settings import count_cpus
from tests.support import processes
from tests.support.clients import connect
from tests.support.output import Output
from tests.support.requirements import requires_ipv6
from tests.support.server import FORKSERVE, ROOT, environment, handler, run_command, running
from tests.support.waiting import Stopwatch

heavy = pytest.mark.heavy
ECHO = "examples/echo.py:Echo"
DATAGRAMS = handler("datagrams.py:Echo")
HEAD = r"\S+: .+ rounds? of .+ s\n.+ CPUs .+\n\n"  # what is measured, and where
NOISY = "CPUs were busy with something else"  # then the best mode is only likely to be found
SMALL = ("--seconds", "0.1", "--rounds", "1", "--concurrency", "2")
ONE_MODE = ("--modes", "thread", *SMALL)
# As `setsid -c` does: the terminal that is standard input becomes our own, Ctrl-C and all.
ON_A_TERMINAL = (
    sys.executable,
    "-c",
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
    "os.execvp(sys.argv[1], sys.argv[1:])",
)


def target(name: str) -> str:
    """Return the target of a handler of this file's."""
    return handler(f"bench_handlers.py:{name}")


def bench(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return run_command("bench", *arguments, **{"timeout": 300, **options})


def advise(*arguments: str, **options: Any) -> str:
    """Return what was printed by a run that went well."""
    done = bench(*arguments, **options)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "Warning" not in done.stderr
    assert re.match(HEAD, done.stdout), done.stdout
    assert "requests/s" in done.stdout
    assert re.search(r"^use .+:\n    forkserve run ", done.stdout, re.MULTILINE), done.stdout
    return done.stdout


def recommended(printed: str) -> str:
    """Return the flags that are to be typed."""
    found = re.search(r"^    forkserve run \S+ (.+)$", printed, re.MULTILINE)
    assert found
    return found[1]


def assert_refused(done: subprocess.CompletedProcess[str], *words: str, status: int = 1) -> None:
    """Fail unless the last line says what was wrong, and nothing was printed as a figure."""
    lines = done.stderr.splitlines()
    assert done.returncode == status, done.stderr
    assert lines[-1].startswith("forkserve: error: "), done.stderr
    for word in words:
        assert word in lines[-1], done.stderr
    assert "bench/" not in done.stderr, "a traceback of ours"
    assert re.fullmatch(HEAD, done.stdout), done.stdout


# -- what it recommends


@heavy
def test_a_handler_that_sleeps_gets_threads() -> None:
    """Sixteen clients wait at a time in threads, and the share of waiting is the reason."""
    printed = advise(target("sleeping"), "--quick", "--concurrency", "1,16")
    assert recommended(printed) == "-m thread" or (NOISY in printed and "thread" in printed)
    assert "of a connection is spent waiting" in printed


@heavy
@pytest.mark.timeout(300)
def test_a_handler_that_computes_gets_a_worker_a_core() -> None:
    """Python computes on one core a process; a machine too noisy to show it is said to be."""
    if count_cpus() < 2:
        pytest.skip("one CPU has room for one worker that computes")
    printed = advise(target("computing"), "--quick", "--concurrency", "1,16")
    flags = recommended(printed)
    assert flags.startswith(f"-m prefork -w {count_cpus()}") or NOISY in printed
    assert "on the processor" in printed


@heavy
@pytest.mark.timeout(300)
def test_a_handler_that_crashes_is_kept_apart() -> None:
    """Where crashes take others down, what they cost is named and a mode that isolates wins."""
    printed = advise(target("crashing"), "--quick", "--concurrency", "1,16")
    assert re.match(r"-m (process|prefork -w \d+)$", recommended(printed)), printed
    lost = re.search(r"clients lost for each crash: .*process (\d\.\d)", printed)
    assert lost
    assert float(lost[1]) < 1.5


@heavy
@pytest.mark.timeout(300)
def test_idle_connections_get_threads_and_their_memory_is_named() -> None:
    """What has no place for them is left out, with its reason, before it is made to try."""
    printed = advise(ECHO, "--quick", "--concurrency", "1,16", "--rounds", "1", "--idle", "300")
    assert re.fullmatch(r"-m thread|-m prefork -w \d+ --threads \d+", recommended(printed))
    assert re.search(r"300 idle connections take \S+ kB each in thread: \S+ MB", printed)
    assert "iterative: none is served: 300 idle connections take all its 1 places" in printed


@heavy
@pytest.mark.timeout(300)
def test_the_first_example_of_the_help_takes_less_than_a_minute() -> None:
    """Every mode under three loads, three times, is a minute's work at most."""
    watch = Stopwatch()
    printed = advise(ECHO, "--quick")
    assert watch.seconds < 60
    assert printed.count("requests/s") == 3
    assert "connections of each worker" in printed
    assert recommended(printed).startswith("-m ")


# -- addresses and loads


@heavy
def test_a_unix_socket_is_served_by_one_mode_after_the_other(tmp_path: Path) -> None:
    """Only one server at a time has the path, and the last takes it away."""
    path = tmp_path / "bench.sock"
    printed = advise(ECHO, *SMALL, "--modes", "thread,process", "-b", f"unix://{path}")
    assert recommended(printed).endswith(f" -b unix://{path}")
    assert not path.exists()


@heavy
def test_a_handler_of_datagrams_needs_no_address() -> None:
    """It is measured over UDP where nothing is said."""
    printed = advise(DATAGRAMS, *SMALL, "--modes", "thread,prefork")
    assert recommended(printed).endswith(" -b udp://127.0.0.1:0")


@heavy
def test_datagrams_over_a_unix_socket(tmp_path: Path) -> None:
    """Clients have names of the kernel's choice, so they are answered and leave no file."""
    advise(DATAGRAMS, *ONE_MODE, "-b", f"unixgram://{tmp_path}/bench.sock")
    assert list(tmp_path.iterdir()) == []


@heavy
def test_an_ipv6_address() -> None:
    """It is written as forkserve run takes it."""
    requires_ipv6()
    advise(ECHO, *ONE_MODE, "-b", "tcp://[::1]:0")


@heavy
def test_a_fixed_port_is_served_by_one_mode_after_the_other() -> None:
    """A port of the user's choice does for every mode in its turn."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    advise(ECHO, *SMALL, "--modes", "iterative,thread", "-b", f"tcp://127.0.0.1:{port}")


@heavy
def test_a_script_on_kept_connections(tmp_path: Path) -> None:
    """A conversation of several steps is repeated as long as there is time."""
    script = tmp_path / "talk.py"
    script.write_text(
        "from forkserve.bench import Pause, ReadUntil, Send\n"
        "def converse(number):\n"
        "    for word in (b'one', b'two'):\n"
        "        yield Send(word + b' %d\\n' % number)\n"
        "        assert (yield ReadUntil(b'\\n')) == word + b' %d\\n' % number\n"
        "    yield Pause(0.001)\n"
    )
    printed = advise(ECHO, *ONE_MODE, "--send", f"@{script}", "--requests", "0")
    assert f"the conversation of {script}, on kept connections" in printed


@heavy
def test_at_a_rate_the_tails_are_compared(tmp_path: Path) -> None:
    """What falls due is told in the first line, and p99 is what decides."""
    printed = advise(ECHO, *SMALL, "--seconds", "0.5", "--modes", "thread,prefork", "--rate", "100")
    assert "100 a second fall due" in printed
    assert re.search(r"^  [^ ].*p99", printed, re.MULTILINE), printed  # in words, below the tables


@heavy
def test_two_client_processes_share_the_load() -> None:
    """Where one cannot make enough load there may be more."""
    advise(ECHO, *ONE_MODE, "--clients", "2", "--concurrency", "5")


@heavy
def test_options_for_the_servers_are_in_the_command_to_type() -> None:
    """What was measured is what is recommended."""
    printed = advise(ECHO, *ONE_MODE, "--", "--connection-timeout", "50")
    assert recommended(printed) == "-m thread --connection-timeout 50"


# -- what is written


@heavy
def test_the_json_holds_everything_that_is_printed(tmp_path: Path) -> None:
    """Whoever reads it needs no screen: the load, the machine, each turn and the advice."""
    path = tmp_path / "found.json"
    printed = advise(ECHO, *SMALL, "--modes", "thread,prefork", "--json", str(path))
    values = json.loads(path.read_text())
    assert f"{values['target']}: {values['load']}\n" in printed
    assert values["environment"]["Python"] in printed
    assert values["is_whole"] is True
    assert f"\n    {values['command']}\n" in printed
    for one in values["variants"]:
        assert f"\n  {one['name']} " in printed
        assert len(one["turns"]["2"]) == 1
        assert one["turns"]["2"][0]["throughput"] > 0
        assert one["turns"]["2"][0]["ok"] > 0
    advice = values["recommendation"]
    assert f"use {advice['variant']}:\n" in printed
    for line in (*advice["reasons"], advice["sureness"], *advice["warnings"]):
        assert line in printed


@heavy
def test_the_page_has_tables_where_charts_cannot_be_drawn(tmp_path: Path) -> None:
    """Without matplotlib the page is whole but for the drawings, and says what is missing."""
    (tmp_path / "matplotlib.py").write_text("raise ImportError\n")
    page = tmp_path / "found.html"
    env = {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    advise(ECHO, *ONE_MODE, "--html", str(page), env=env)
    text = page.read_text()
    assert "<svg" not in text
    assert "pip install" in text
    assert text.count("<table>") > 5
    assert "forkserve run examples/echo.py:Echo -m thread" in text


@heavy
def test_progress_is_plain_lines_where_nobody_watches() -> None:
    """Standard error has a line for each turn, standard output tables and the advice only."""
    done = bench(ECHO, *SMALL, "--rounds", "2", "--modes", "thread")
    lines = done.stderr.splitlines()
    assert [line.partition(" ")[0] for line in lines] == ["1/2", "2/2"]
    assert re.fullmatch(r"1/2 thread, 2 at a time: \d+ a second", lines[0])
    assert "1/2" not in done.stdout
    assert "\x1b" not in done.stdout + done.stderr


# -- how it fails


@pytest.fixture
def temporary(tmp_path: Path) -> Iterator[Mapping[str, str]]:
    """Return an environment with a folder for temporary files, in which none may be left."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    yield {"TMPDIR": str(folder)}
    assert list(folder.iterdir()) == []


SPOILED = [
    pytest.param("wrong_later", ("thread: ", "wrong answer", "byte 0"), id="wrong-answer"),
    pytest.param("greeting", ("speaks first", "'220 ready", "--send @script.py"), id="greeting"),
    pytest.param("counting", ("differ from client to client", "expected '1"), id="differing"),
    pytest.param("leaving", ("without an answer", "--send"), id="leaving"),
    pytest.param("silent", ("no answer to 'xxx", "within 10 s"), id="silent"),
    pytest.param("nothing_such", ("has no 'nothing_such'",), id="no-such-handler"),
]


@heavy
@pytest.mark.parametrize(("name", "words"), SPOILED)
def test_an_answer_that_does_not_count_is_no_figure(
    name: str, words: Sequence[str], temporary: Mapping[str, str]
) -> None:
    """The run ends with one line that says what was wrong, instead of a table."""
    done = bench(target(name), "--modes", "thread", "--concurrency", "4", env=temporary)
    assert_refused(done, *words, status=4 if name == "nothing_such" else 1)


@heavy
def test_a_server_that_dies_under_load_is_no_figure() -> None:
    """Its end is what the last line says, and its workers end with it."""
    done = bench(target("fatal_later"), "--modes", "thread", "--concurrency", "4")
    assert_refused(done, "the server ended under load")
    while processes.descendants(os.getpid()):
        os.waitpid(-1, 0)  # they are ours now, since nobody of theirs is left


SCRIPTS = [
    pytest.param("def converse(number):\n    raise OSError('no')\n    yield\n",
                 ("OSError: no in line 2",), id="raises"),
    pytest.param("from forkserve.bench import ReadExactly, Send\n"
                 "def converse(number):\n"
                 "    yield Send(b'hello')\n"
                 "    assert (yield ReadExactly(5)) == b'HELLO'\n",
                 ("wrong answer", "assertion failed in line 4"), id="assertion"),
    pytest.param("def talk(number): ...\n", ("no function converse(number)",), id="no-converse"),
    pytest.param("def converse(:\n", ("SyntaxError",), id="syntax"),
    pytest.param("def converse(number):\n    yield 'hello'\n",
                 ("in line 2 yielded 'hello', which is no step",), id="no-step"),
    pytest.param("def converse(number):\n    return 5\n", ("is no generator",), id="no-generator"),
    pytest.param("from forkserve.bench import ReadUntil\n"
                 "def converse(number):\n    yield ReadUntil(b'\\n')\n",
                 ("unanswered",), id="waits-for-ever"),
    pytest.param(None, ("there is no file",), id="missing"),
]  # fmt: skip


@heavy
@pytest.mark.parametrize(("text", "words"), SCRIPTS)
def test_a_script_that_is_wrong_is_no_figure(
    text: str | None, words: Sequence[str], tmp_path: Path, temporary: Mapping[str, str]
) -> None:
    """Its file is named, what it raised, and in which line."""
    script = tmp_path / "talk.py"
    if text is not None:
        script.write_text(text)
    done = bench(ECHO, *ONE_MODE, "--send", f"@{script}", env=temporary)
    assert_refused(done, *words)


@heavy
def test_more_requests_than_a_connection_lasts() -> None:
    """A server that ends the connection after an answer cannot be asked twice on it."""
    done = bench(target("one_answer"), *ONE_MODE, "--requests", "5")
    assert_refused(done, "--requests 5: the server ends the connection after one answer")


def test_a_target_that_is_not_there() -> None:
    """The status is that of forkserve run: 4."""
    assert_refused(bench("nowhere.py:Handler"), "there is no file 'nowhere.py'", status=4)


def test_an_address_in_use_is_named() -> None:
    """The line is the server's own."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        done = bench(ECHO, *ONE_MODE, "-b", address)
    assert_refused(done, "cannot listen on", address, "in use")


def test_an_option_that_no_server_knows() -> None:
    """What the servers refuse after `--` is a malformed command: 2."""
    done = bench(ECHO, *ONE_MODE, "--", "--nonsense")
    assert_refused(done, "unrecognized arguments: --nonsense", status=2)


def test_a_folder_that_is_not_there() -> None:
    """A path that no server can listen on is named, with the reason."""
    done = bench(ECHO, *ONE_MODE, "-b", "unix:///nonexistent/bench.sock")
    assert_refused(done, "unix:///nonexistent/bench.sock: No such file or directory")


CRASHES_ONCE_AND_CUTS = """
import itertools, os, pathlib, signal, forkserve

CRASHED = pathlib.Path(f"{__file__}.{os.getppid()}")
served = itertools.count()


class Handler(forkserve.StreamHandler):
    def handle(self):
        if not CRASHED.exists():
            CRASHED.touch()
            os.kill(os.getpid(), signal.SIGSEGV)
        data = self.connection.recv()
        number = next(served)
        self.connection.send_all(data if number < 50 or number % 2 else data[:-1])
"""


def test_a_crash_excuses_no_more_than_it_can_have_cost(tmp_path: Path) -> None:
    """A server that crashed once, and cuts answers short ever after, gets no figure."""
    code = tmp_path / "cuts.py"
    code.write_text(CRASHES_ONCE_AND_CUTS)
    assert_refused(bench(f"{code}:Handler", *ONE_MODE))


def test_standard_error_that_is_closed_is_no_hindrance() -> None:
    """Nobody sees how far it is, and the table is printed."""
    done = bench(ECHO, *ONE_MODE, under=("sh", "-c", 'exec "$@" 2>&-', "sh"))
    assert done.returncode == 0
    assert "requests/s" in done.stdout


def test_standard_output_that_is_closed_is_said_before_anything_is_measured() -> None:
    """What cannot be printed need not be measured."""
    done = bench(ECHO, *ONE_MODE, under=("sh", "-c", 'exec "$@" >&-', "sh"))
    assert (done.returncode, done.stderr) == (1, "forkserve: error: standard output is closed\n")


def test_a_malformed_command_is_one_line() -> None:
    """Nothing is started, and nothing printed, for a command that makes no sense."""
    done = bench(ECHO, "--modes", "fast")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1


@heavy
def test_a_socket_file_is_taken_away_where_the_figures_are_spoiled(tmp_path: Path) -> None:
    """A server that is ended in the middle leaves its path as it was."""
    done = bench(target("wrong_later"), *ONE_MODE, "--seconds", "1",
                 "-b", f"unix://{tmp_path}/bench.sock")  # fmt: skip
    assert_refused(done, "wrong answer")
    assert list(tmp_path.iterdir()) == []


# -- interrupted


@dataclass
class Running:
    """A run in the background."""

    process: "subprocess.Popen[bytes]"
    out: Output
    err: Output

    def wait(self) -> int:
        """Return the exit status."""
        return self.process.wait(60)


@contextlib.contextmanager
def started(*arguments: str, terminal: int | None = None) -> Iterator[Running]:
    """Run the command in the background, on a terminal if there is one, until the block ends."""
    process = subprocess.Popen(
        [*(ON_A_TERMINAL if terminal is not None else ()), *FORKSERVE, "bench", *arguments],
        stdin=subprocess.DEVNULL if terminal is None else terminal,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment({"PYTHONPATH": str(ROOT)}),
        cwd=ROOT,
        start_new_session=True,
    )
    assert process.stdout
    assert process.stderr
    outputs = Output(process.stdout), Output(process.stderr)
    try:
        yield Running(process, *outputs)
    finally:
        process.kill()
        process.wait()
        for output in outputs:
            output.close()


LONG = ("--modes", "thread,prefork", "--concurrency", "2", "--seconds", "0.3", "--rounds", "500")


@heavy
@pytest.mark.parametrize("number", [SIGINT, SIGTERM])
def test_an_interruption_shows_what_has_been_measured(number: int) -> None:
    """Ctrl-C is no failure: tables and advice of the rounds there were, and status 130."""
    with started(ECHO, *LONG) as run:
        run.err.wait_for("^7/", 60)
        os.kill(run.process.pid, number)
        assert run.wait() == 130
        run.out.wait_for(r"^interrupted: this is what \d+ of \d+ turns have shown$")
        run.out.wait_for("requests/s")
        run.out.wait_for("^    forkserve run ")
        assert "Traceback" not in run.err.text()


@heavy
def test_an_interruption_before_the_first_figure_says_so() -> None:
    """Then there is no table, and no recommendation."""
    with started(target("silent"), *LONG) as run:
        run.out.wait_for("CPUs", 60)
        os.kill(run.process.pid, SIGINT)
        assert run.wait() == 130
        run.out.wait_for("^nothing was measured$")
        assert "requests/s" not in run.out.text()
        assert "Traceback" not in run.err.text()


@heavy
def test_ctrl_c_on_a_terminal_is_for_us_alone(tmp_path: Path) -> None:
    """Servers and clients do not hear it, so they are ended in order, and their path is free."""
    ours, its = os.openpty()
    try:
        bind = f"unix://{tmp_path}/bench.sock"
        with started(ECHO, *LONG, "-b", bind, terminal=its) as run:
            run.err.wait_for("^3/", 60)
            os.write(ours, b"\x03")
            assert run.wait() == 130
            run.out.wait_for("^interrupted: ")
            assert "Traceback" not in run.err.text()
    finally:
        os.close(ours)
        os.close(its)
    assert list(tmp_path.iterdir()) == []


@heavy
def test_an_impatient_user_cannot_disturb_the_cleaning_up(tmp_path: Path) -> None:
    """A second and a third Ctrl-C change nothing."""
    with started(ECHO, *LONG, "-b", f"unix://{tmp_path}/bench.sock") as run:
        run.err.wait_for("^3/", 60)
        for _ in range(3):
            os.kill(run.process.pid, SIGINT)
        assert run.wait() == 130
        assert "Traceback" not in run.err.text()
    assert list(tmp_path.iterdir()) == []


@heavy
@pytest.mark.parametrize("has_rich", [True, False])
def test_a_terminal_shows_one_line_that_is_erased(has_rich: bool, tmp_path: Path) -> None:
    """What moves is gone in the end; standard output has none of it."""
    if not has_rich:
        (tmp_path / "rich.py").write_text("raise ImportError\n")
    env = environment({"PYTHONPATH": f"{tmp_path}:{ROOT}", "TERM": "xterm"})
    ours, its = os.openpty()
    command = [*FORKSERVE, "bench", ECHO, *ONE_MODE, "--rounds", "3"]
    try:
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=its, stdin=subprocess.DEVNULL, env=env, cwd=ROOT
        ) as process:
            os.close(its)
            shown = _read_all(ours)
            assert process.stdout
            printed = process.stdout.read().decode()
    finally:
        os.close(ours)
    assert process.returncode == 0
    assert "\x1b" not in printed
    assert "3 at a time" not in printed
    assert "thread" in shown
    last = shown.rstrip("\r\n")
    assert re.search(r"\x1b\[2?K[\x1b\[?0-9a-zA-Z]*$", last), repr(shown[-200:])


def _read_all(terminal: int) -> str:
    """Return what is written to a terminal until nobody has it any more."""
    text = b""
    poll = select.poll()
    poll.register(terminal, select.POLLIN)
    while poll.poll(60_000):
        try:
            data = os.read(terminal, 65536)
        except OSError:  # EIO: the other end is closed
            break
        if not data:
            break
        text += data
    return text.decode(errors="replace")


# -- beside the other commands


def test_a_server_does_not_carry_the_benchmark() -> None:
    """Whoever serves imports nothing of it."""
    with running(target("bench_modules"), "thread") as server, connect(server.address) as client:
        client.sendall(b"?")
        assert client.recv(4096) == b"[]\n"


def test_the_help_names_the_command() -> None:
    """Whoever asks what there is finds it, and its own help with examples."""
    assert re.search("^ +bench +", run_command("--help").stdout, re.MULTILINE)
    done = bench("--help")
    assert done.returncode == 0
    assert "forkserve bench examples/echo.py:Echo --quick" in done.stdout
    assert done.stderr == ""
