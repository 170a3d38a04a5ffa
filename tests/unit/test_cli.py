"""What the command's settings are, and whose fault a contradiction is."""

import os
from typing import Any

import pytest

from forkserve import signals

# The command takes the signals over when it is imported: here they go back to pytest at once.
_before = signals.install(dict.fromkeys(signals._HANDLED))
from forkserve.cli import read_settings  # noqa: E402

signals.install(_before)

from forkserve.errors import SettingsError, UsageError  # noqa: E402
from forkserve.settings import Mode, Settings  # noqa: E402


def test_without_a_word_everything_is_default() -> None:
    """Flags that were not given and variables that are not set leave the defaults."""
    assert read_settings({"workers": None, "mode": None}, {}) == Settings()


def test_a_variable_comes_before_the_default() -> None:
    """A variable counts where there is no flag."""
    assert read_settings({"workers": None}, {"FORKSERVE_WORKERS": "3"}).workers == 3


def test_a_flag_comes_before_the_variable() -> None:
    """A flag counts, whatever the variable says."""
    assert read_settings({"workers": 2}, {"FORKSERVE_WORKERS": "3"}).workers == 2


def test_a_flag_of_zero_is_given() -> None:
    """A flag counts also where its value is nothing."""
    assert (
        read_settings({"drain_timeout": 0.0}, {"FORKSERVE_DRAIN_TIMEOUT": "3"}).drain_timeout == 0
    )


def test_a_wrong_variable_is_wrong_even_beside_a_flag() -> None:
    """Nobody finds out later that a variable never made sense."""
    with pytest.raises(SettingsError, match="FORKSERVE_WORKERS"):
        read_settings({"workers": 2}, {"FORKSERVE_WORKERS": "x"})


def test_flags_that_contradict_each_other() -> None:
    """That is an error of the command line."""
    with pytest.raises(UsageError, match="--threads has no meaning in process mode"):
        read_settings({"mode": Mode.PROCESS, "threads": 2}, {})


def test_a_flag_that_contradicts_a_default() -> None:
    """That too is an error of the command line."""
    with pytest.raises(UsageError, match="--spare has no meaning in prefork mode"):
        read_settings({"spare": 2}, {})


@pytest.mark.parametrize(
    ("flags", "environment", "blamed"),
    [
        ({"threads": 2}, {"FORKSERVE_MODE": "process"}, "FORKSERVE_MODE"),
        ({"mode": Mode.PROCESS}, {"FORKSERVE_THREADS": "2"}, "FORKSERVE_THREADS"),
        (
            {},
            {"FORKSERVE_THREADS": "2", "FORKSERVE_MODE": "process"},
            "FORKSERVE_THREADS, FORKSERVE_MODE",
        ),
    ],
)
def test_a_variable_that_contradicts(
    flags: dict[str, Any], environment: dict[str, str], blamed: str
) -> None:
    """Where a variable has its part in it, it is a wrong setting, and the variable is named."""
    with pytest.raises(SettingsError, match=rf"process mode \(from {blamed}\)$"):
        read_settings(flags, environment)


@pytest.mark.parametrize(
    ("flags", "environment", "problem"),
    [
        (
            {"no_supervise": True},
            {"FORKSERVE_RELOAD": "1"},
            r"^--reload needs what --no-supervise does without \(from FORKSERVE_RELOAD\)$",
        ),
        (
            {"workers": 2},
            {"FORKSERVE_NO_SUPERVISE": "yes"},
            r"^--no-supervise .* --workers 2 \(from FORKSERVE_NO_SUPERVISE\)$",
        ),
    ],
)
def test_a_variable_that_contradicts_how_to_supervise(
    flags: dict[str, Any], environment: dict[str, str], problem: str
) -> None:
    """A debugger's one process is not for several workers, nor for loading code again."""
    with pytest.raises(SettingsError, match=problem):
        read_settings(flags, environment)


def test_flags_that_contradict_how_to_supervise() -> None:
    """Said on the command line, it is an error of the command line."""
    with pytest.raises(UsageError, match="--no-supervise serves in one process"):
        read_settings({"no_supervise": True, "workers": 2}, {})


def test_a_variable_turns_a_switch_on() -> None:
    """A switch that no flag turns on is as its variable says."""
    assert read_settings({"reload": None}, {"FORKSERVE_RELOAD": "true"}).reload


def test_a_variable_that_a_flag_replaces_is_not_blamed() -> None:
    """Only what counts can contradict."""
    with pytest.raises(UsageError):
        read_settings({"threads": 2, "mode": Mode.PROCESS}, {"FORKSERVE_MODE": "thread"})


def test_a_ready_descriptor_that_is_not_open() -> None:
    """It is refused before anything starts."""
    reader, writer = os.pipe()
    os.close(reader)
    os.close(writer)
    with pytest.raises(SettingsError, match=f"--ready-fd {writer}: Bad file descriptor"):
        read_settings({"ready_fd": writer}, {})
