"""The command line of `forkserve bench`: what it means, and what each wrong word is told."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forkserve.bench.arguments import QUESTION, Plan, parse
from forkserve.bench.conversation import Script
from forkserve.settings import Mode

TARGET = "app.py:Handler"


def refuse(capfd: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return what is said of arguments that are refused, in one line and with status 2."""
    with pytest.raises(SystemExit) as end:
        parse([TARGET, *arguments])
    assert end.value.code == 2
    told = capfd.readouterr()
    assert told.out == ""
    assert told.err.startswith("forkserve bench: error: ")
    assert told.err.endswith("(see forkserve bench --help)\n")
    assert told.err.count("\n") == 1
    return told.err


def test_without_options_all_modes_are_measured_under_three_loads() -> None:
    """The defaults are those that --help names."""
    assert parse([TARGET]) == Plan(
        target=TARGET,
        bind=None,
        send=QUESTION,
        modes=tuple(Mode),
        workers=(),
        threads=(),
        concurrency=(1, 8, 64),
        rate=0.0,
        requests=1,
        idle=0,
        clients=1,
        rounds=5,
        seconds=1.0,
        json=None,
        html=None,
        options=(),
    )


def test_the_question_is_a_line_of_64_bytes() -> None:
    """So it is good for handlers of lines, too."""
    assert len(QUESTION) == 64
    assert QUESTION.endswith(b"\n")


def test_quick_is_shorter() -> None:
    """Three rounds of less than half a second, unless one says otherwise."""
    quick = parse([TARGET, "--quick"])
    assert (quick.rounds, quick.seconds) == (3, 0.4)
    longer = parse([TARGET, "--quick", "--seconds", "2"])
    assert (longer.rounds, longer.seconds) == (3, 2.0)


def test_numbers_are_sorted_and_taken_once() -> None:
    """The order of a list does not matter, nor does a repetition."""
    assert parse([TARGET, "--concurrency", "64,1,64"]).concurrency == (1, 64)


def test_modes_keep_their_order() -> None:
    """The first mode given is the first line of the tables."""
    assert parse([TARGET, "--modes", "prefork,thread,prefork"]).modes == (
        Mode.PREFORK,
        Mode.THREAD,
    )


def test_what_follows_two_dashes_is_for_the_servers() -> None:
    """They are options of forkserve run, and not ours to understand."""
    plan = parse([TARGET, "--quick", "--", "--drain-timeout", "3", "--quick"])
    assert plan.options == ("--drain-timeout", "3", "--quick")


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ("PING\\r\\n", b"PING\r\n"),
        ("a\\x00\\xff\\\\n", b"a\x00\xff\\n"),
        ("é", "é".encode()),
        ("", b""),
    ],
)
def test_bytes_to_send_are_as_typed_with_escapes(text: str, data: bytes) -> None:
    """Letters beyond ASCII are what the terminal would have sent: UTF-8."""
    assert parse([TARGET, "--send", text]).send == data


def test_a_file_to_send_is_sent_as_it_is(tmp_path: Path) -> None:
    """No escape is looked for in a file."""
    (tmp_path / "request").write_bytes(b"GET \\n\r\n")
    assert parse([TARGET, "--send", f"{tmp_path}/request"]).send == b"GET \\n\r\n"


def test_a_script_is_not_run_before_the_server_stands() -> None:
    """Parsing only notes where it is."""
    send = parse([TARGET, "--send", "@talk.py"]).send
    assert isinstance(send, Script)
    assert send.path == "talk.py"


@pytest.mark.parametrize(
    ("bind", "is_fixed"),
    [
        (None, False),
        ("tcp://127.0.0.1:0", False),
        ("tcp://[::1]:0", False),
        ("tcp://127.0.0.1:7000", True),
        ("unix:///run/a.sock", True),
    ],
)
def test_a_fixed_address_is_one_that_servers_must_take_in_turns(
    bind: str | None, is_fixed: bool
) -> None:
    """Only port 0 gives each server one of its own."""
    assert parse([TARGET, *(["-b", bind] if bind else [])]).is_fixed is is_fixed


def test_a_second_address_is_refused(capfd: pytest.CaptureFixture[str]) -> None:
    """Only one is measured, and nobody would know which."""
    told = refuse(capfd, "-b", "tcp://:1", "--bind", "unix:///s")
    assert "argument --bind: given twice" in told


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--send", "\\x", r"'\\x': truncated \xXX escape"),
        ("--send", "\\u20ac", r"'\\u20ac': an escape beyond \xff is not a byte"),
        ("--concurrency", "0", "'0' is not a whole number from 1 up"),
        ("--concurrency", "1,,2", "'' is not a whole number from 1 up"),
        ("--rate", "0", "'0' is not a number above 0"),
        ("--rate", "fast", "'fast' is not a number above 0"),
        ("--requests", "-1", "'-1' is not a whole number from 0 up"),
        ("--idle", "many", "'many' is not a whole number from 0 up"),
        ("--modes", "fast", "'fast' is not one of iterative, thread, process, prefork"),
        ("--workers", "auto", "'auto' is not a whole number from 1 up"),
        ("--threads", "0", "'0' is not a whole number from 1 up"),
        ("--clients", "0", "'0' is not a whole number from 1 up"),
        ("--rounds", "0", "'0' is not a whole number from 1 up"),
        ("--rounds", "²", "'²' is not a whole number from 1 up"),
        ("--seconds", "nan", "'nan' is not a number above 0"),
        ("--seconds", "inf", "'inf' is not a number above 0"),
        ("--bind", "nowhere", "address 'nowhere': expected HOST:PORT"),
        ("--bind", "fd://3", "'fd://3' does not begin with tcp://, unix://"),
        ("--json", "/nonexistent/f", "'/nonexistent/f' cannot be written"),
        ("--html", "/", "'/' cannot be written"),
    ],
)
def test_a_wrong_value_is_refused_with_what_would_be_right(
    option: str, value: str, said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """The line names the option, the word and what is wrong with it."""
    line = refuse(capfd, option, value)
    assert option in line
    assert said in line


@pytest.mark.parametrize("word", ["--nope", "another.py:Handler", "--quic"])
def test_a_word_too_many_is_refused(word: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Nothing that was typed is ignored, and no option is guessed from its beginning."""
    assert f"unrecognized arguments: {word}" in refuse(capfd, word)


@pytest.mark.parametrize(
    ("word", "instead"),
    [
        ("-m", "--modes"),
        ("--mode=thread", "--modes"),
        ("-w4", "--workers"),
        ("--workers", "--workers"),
        ("--threads=3", "--threads"),
        ("-btcp://:1", "-b"),
        ("--bind", "-b"),
    ],
)
def test_options_that_would_undo_the_comparison_are_refused(
    word: str, instead: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """After `--` a mode would make all variants the same under different names."""
    line = refuse(capfd, "--", word)
    assert f"{word} after --: that is for {instead} before it" in line


@pytest.mark.parametrize("name", ["WORKERS", "THREADS"])
def test_variables_that_would_falsify_the_comparison_are_refused(
    name: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server takes from the environment what no flag says, and "prefork 2" would be 2x8."""
    monkeypatch.setenv(f"FORKSERVE_{name}", "8")
    line = refuse(capfd)
    assert f"FORKSERVE_{name} is set" in line
    assert f"unset it and use --{name.lower()}" in line


OPTIONS = ["--send", "--concurrency", "--rate", "--modes", "-b", "--seconds", "--", "--idle"]


@given(st.lists(st.sampled_from(OPTIONS) | st.text(max_size=6), max_size=5))
def test_any_words_are_a_plan_or_a_refusal(words: list[str]) -> None:
    """Nothing that can be typed is a traceback."""
    try:
        assert isinstance(parse(words), Plan)
    except SystemExit as end:
        assert end.code in (0, 2)  # noqa: PT017
