"""What can be set, how it is written, and what contradicts what."""

import io
import os
from typing import Any

import pytest

from forkserve import settings
from forkserve.errors import SettingsError
from forkserve.settings import (
    OPTIONS,
    Mode,
    Settings,
    check_ranges,
    count_cpus,
    find_contradiction,
    read_environment,
)

BY_NAME = {option.name: option for option in OPTIONS}

GOOD = [
    ("bind", ":80", (":80",)),
    ("bind", ":80,unix:///x :81", (":80", "unix:///x", ":81")),
    ("mode", "iterative", Mode.ITERATIVE),
    ("mode", "thread", Mode.THREAD),
    ("mode", "process", Mode.PROCESS),
    ("mode", "prefork", Mode.PREFORK),
    ("workers", "auto", None),
    ("workers", "3", 3),
    ("threads", "1", 1),
    ("spare", "0", 0),
    ("connections_per_child", "1", 1),
    ("max_connections", "1", 1),
    ("drain_timeout", "0", 0.0),
    ("drain_timeout", "2.5", 2.5),
    ("boot_timeout", "1e3", 1000.0),
    ("connection_timeout", "0", 0.0),
    ("connection_timeout", "0.5", 0.5),
    ("liveness_timeout", "0", 0.0),
    ("liveness_timeout", "90", 90.0),
    ("leader_start", "site.app:warm", "site.app:warm"),
    ("worker_start", "hooks.py:begin", "hooks.py:begin"),
    ("worker_stop", "hooks.py:end", "hooks.py:end"),
    ("no_supervise", "1", True),
    ("no_supervise", "no", False),
    ("reload", "yes", True),
    ("reload", "0", False),
    ("bind_retries", "0", 0),
    ("ready_fd", "0", 0),
    ("log_level", "debug", "debug"),
    ("access_log", "1", True),
    ("access_log", "Yes", True),
    ("access_log", "false", False),
    ("access_log", "no", False),
]

WRONG = [
    ("bind", "nowhere", "address 'nowhere'"),
    ("mode", "forking", "'forking' is not one of iterative, thread, process, prefork"),
    ("mode", "Thread", "'Thread' is not one of"),
    ("workers", "0", "'0' is not a whole number from 1 up"),
    ("workers", "many", "'many' is not a whole number from 1 up"),
    ("threads", "0", "whole number from 1 up"),
    ("threads", "1.5", "whole number from 1 up"),
    ("spare", "-1", "'-1' is not a whole number from 0 up"),
    ("connections_per_child", "0", "whole number from 1 up"),
    ("max_connections", "0", "whole number from 1 up"),
    ("max_connections", "1_000", "whole number from 1 up"),
    ("max_connections", "\N{SUPERSCRIPT TWO}", "whole number from 1 up"),
    ("drain_timeout", "-1", "'-1' is not a number of seconds"),
    ("drain_timeout", "nan", "'nan' is not a number of seconds"),
    ("drain_timeout", "inf", "'inf' is not a number of seconds"),
    ("boot_timeout", "soon", "'soon' is not a number of seconds"),
    ("connection_timeout", "-0.1", "'-0.1' is not a number of seconds"),
    ("connection_timeout", "never", "'never' is not a number of seconds"),
    ("liveness_timeout", "-1", "'-1' is not a number of seconds"),
    ("liveness_timeout", "inf", "'inf' is not a number of seconds"),
    ("no_supervise", "maybe", "'maybe' is not one of"),
    ("reload", "always", "'always' is not one of"),
    ("bind_retries", "-1", "'-1' is not a whole number from 0 up"),
    ("ready_fd", "-1", "whole number from 0 up"),
    ("log_level", "loud", "'loud' is not one of debug, info, warning, error"),
    ("access_log", "perhaps", "'perhaps' is not one of"),
]


@pytest.mark.parametrize(("name", "text", "value"), GOOD)
def test_what_a_setting_means(name: str, text: str, value: object) -> None:
    """Each setting is read from its variable as the documentation writes it."""
    assert read_environment({f"FORKSERVE_{name.upper()}": text}) == {name: value}


@pytest.mark.parametrize(("name", "text", "problem"), WRONG)
def test_what_is_wrong_with_a_setting(name: str, text: str, problem: str) -> None:
    """A wrong variable is named, with its value and what it may be."""
    with pytest.raises(SettingsError, match=rf"^FORKSERVE_{name.upper()}: .*{problem}"):
        read_environment({f"FORKSERVE_{name.upper()}": text})


def test_an_empty_variable_is_as_none() -> None:
    """A variable that is set to nothing says nothing, and others are none of our business."""
    assert read_environment({"FORKSERVE_WORKERS": "", "WORKERS": "x", "FORKSERVE_X": "y"}) == {}


def test_every_setting_is_an_option() -> None:
    """There is a flag and a variable for each setting, and no other."""
    assert tuple(BY_NAME) == Settings._fields


def test_a_flag_is_the_name_of_the_setting() -> None:
    """Words are joined by dashes in a flag, and by underscores in a variable."""
    option = BY_NAME["max_connections"]
    assert (option.flag, option.variable) == ("--max-connections", "FORKSERVE_MAX_CONNECTIONS")


def test_the_defaults() -> None:
    """Without a word forkserve is pre-forked, local and bounded."""
    default = Settings()
    assert (default.bind, default.mode, default.workers) == ((), "prefork", None)
    assert (default.max_connections, default.drain_timeout, default.boot_timeout) == (1024, 25, 60)


def test_the_defaults_of_supervision() -> None:
    """Without a word forkserve watches over its workers, not over how long a connection lasts."""
    default = Settings()
    assert (default.connection_timeout, default.liveness_timeout) == (0, 30)
    assert (default.leader_start, default.worker_start, default.worker_stop) == (None, None, None)
    assert (default.no_supervise, default.reload) == (False, False)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"threads": 4},
        {"mode": Mode.THREAD, "threads": 4},
        {"mode": Mode.PROCESS, "spare": 3, "connections_per_child": 5},
        {"mode": Mode.PROCESS, "spare": 3, "max_connections": 4},
        {"mode": Mode.ITERATIVE, "workers": 3},
        {"reload": True, "workers": 3},
        {"no_supervise": True},
        {"no_supervise": True, "workers": 1},
        {"no_supervise": True, "mode": Mode.THREAD, "threads": 8},
        {"no_supervise": True, "mode": Mode.PROCESS, "spare": 2},
        {"connection_timeout": 1.0, "liveness_timeout": 0.0},
    ],
)
def test_what_goes_together(given: dict[str, Any]) -> None:
    """Settings that mean something together contradict nothing."""
    assert find_contradiction(Settings(**given)) is None


@pytest.mark.parametrize(
    ("given", "message", "names"),
    [
        ({"mode": Mode.ITERATIVE, "threads": 2}, "--threads", {"threads", "mode"}),
        ({"mode": Mode.PROCESS, "threads": 2}, "--threads", {"threads", "mode"}),
        ({"mode": Mode.THREAD, "spare": 1}, "--spare", {"spare", "mode"}),
        ({"spare": 1}, "--spare", {"spare", "mode"}),
        (
            {"connections_per_child": 2},
            "--connections-per-child",
            {"connections_per_child", "mode"},
        ),
        (
            {"mode": Mode.PROCESS, "spare": 4, "max_connections": 4},
            "--spare 4",
            {"spare", "max_connections"},
        ),
        (
            {"no_supervise": True, "workers": 2},
            "--no-supervise serves in one process, not in --workers 2",
            {"no_supervise", "workers"},
        ),
        (
            {"no_supervise": True, "mode": Mode.ITERATIVE, "workers": 3},
            "--no-supervise",
            {"no_supervise", "workers"},
        ),
        (
            {"no_supervise": True, "reload": True},
            "--reload needs what --no-supervise does without",
            {"no_supervise", "reload"},
        ),
    ],
)
def test_what_contradicts(given: dict[str, Any], message: str, names: set[str]) -> None:
    """A setting without meaning beside another is named, and the other too."""
    wrong = find_contradiction(Settings(**given))
    assert wrong is not None
    assert wrong[0].startswith(message)
    assert set(wrong[1]) == names


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"workers": 0}, "--workers 0 is too little: 1 at least"),
        ({"threads": 0}, "--threads 0 is too little"),
        ({"max_connections": 0}, "--max-connections 0 is too little"),
        ({"drain_timeout": -1.0}, "--drain-timeout -1.0 is too little: 0 at least"),
        ({"connection_timeout": -1.0}, "--connection-timeout -1.0 is too little: 0 at least"),
        ({"liveness_timeout": -0.5}, "--liveness-timeout -0.5 is too little: 0 at least"),
        ({"liveness_timeout": float("nan")}, "--liveness-timeout nan is too little"),
        ({"connection_timeout": "1"}, "connection_timeout is '1', not a number"),
    ],
)
def test_a_number_out_of_its_range(given: dict[str, Any], problem: str) -> None:
    """Numbers from Python are held to the ranges of the flags."""
    with pytest.raises(SettingsError, match=problem):
        check_ranges(Settings(**given))


def test_the_ends_of_the_ranges() -> None:
    """The least that may be, and nothing where nothing need be, are in range."""
    check_ranges(Settings(workers=1, threads=1, connection_timeout=0.0, liveness_timeout=0.0))


@pytest.mark.parametrize(
    ("given", "workers"),
    [
        ({"mode": Mode.PREFORK}, 7),
        ({"mode": Mode.PREFORK, "workers": 3}, 3),
        ({"mode": Mode.THREAD}, 1),
        ({"mode": Mode.THREAD, "workers": 2}, 2),
        ({"mode": Mode.PROCESS}, 1),
        ({"mode": Mode.ITERATIVE}, 1),
    ],
)
def test_how_many_workers(
    given: dict[str, Any], workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pre-forked workers are as many as the CPUs, others one, unless told otherwise."""
    monkeypatch.setattr(settings, "count_cpus", lambda: 7)
    assert Settings(**given).count_workers() == workers


@pytest.mark.parametrize(
    ("workers", "patience"), [(1, 60.0), (14, 60.0), (15, 120.0), (28, 120.0), (64, 300.0)]
)
def test_how_many_boot_at_once(
    workers: int, patience: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two a CPU; those that wait for them have their boot timeout afterwards."""
    monkeypatch.setattr(settings, "count_cpus", lambda: 7)
    assert settings.count_boots_at_once() == 14
    assert Settings(workers=workers, boot_timeout=60.0).patience_with_boots() == patience


@pytest.mark.parametrize(
    ("files", "cpus"),
    [
        ({}, 8),
        ({"/sys/fs/cgroup/cpu.max": "max 100000\n"}, 8),
        ({"/sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2),
        ({"/sys/fs/cgroup/cpu.max": "150000 100000\n"}, 2),
        ({"/sys/fs/cgroup/cpu.max": "50000 100000\n"}, 1),
        ({"/sys/fs/cgroup/cpu.max": "9900000 100000\n"}, 8),
        ({"/sys/fs/cgroup/cpu.max": "nonsense\n"}, 8),
        (
            {
                "/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "300000\n",
                "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            3,
        ),
        (
            {
                "/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            8,
        ),
    ],
)
def test_cpus_by_affinity_and_quota(
    files: dict[str, str], cpus: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cgroup's quota, rounded up, bounds the CPUs that the affinity allows."""

    def fake_open(path: str) -> io.StringIO:
        if path not in files:
            raise FileNotFoundError(path)
        return io.StringIO(files[path])

    monkeypatch.setattr(settings, "open", fake_open, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    assert count_cpus() == cpus
