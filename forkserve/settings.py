"""What can be set, how it is written, what it may be, and what contradicts what."""

import enum
import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from forkserve.address import parse_address
from forkserve.errors import SettingsError
from forkserve.log import LEVELS

BOOTS_A_CPU = 2  # workers that boot at a time: those that serve need the CPUs too


class Mode(enum.StrEnum):
    """The four modes, as flags and arguments name them."""

    ITERATIVE = "iterative"
    THREAD = "thread"
    PROCESS = "process"
    PREFORK = "prefork"


class Settings(NamedTuple):
    """One server's settings, each within its range; times are in seconds."""

    bind: tuple[str, ...] = ()  # none: DEFAULT_ADDRESS, or where an adopted server is at home
    mode: Mode = Mode.PREFORK
    workers: int | None = None
    threads: int | None = None
    spare: int = 0
    connections_per_child: int = 1
    max_connections: int = 1024
    drain_timeout: float = 25.0
    boot_timeout: float = 60.0
    connection_timeout: float = 0.0
    liveness_timeout: float = 30.0
    leader_start: str | None = None
    worker_start: str | None = None
    worker_stop: str | None = None
    no_supervise: bool = False
    reload: bool = False
    bind_retries: int = 0
    ready_fd: int | None = None
    log_level: str = "info"
    access_log: bool = False

    def count_workers(self) -> int:
        """Return how many workers there will be."""
        if self.workers is not None:
            return self.workers
        return count_cpus() if self.mode is Mode.PREFORK else 1

    def patience_with_boots(self) -> float:
        """Return the seconds that all workers together may take to boot."""
        return self.boot_timeout * -(-self.count_workers() // count_boots_at_once())

    def serves_in_threads(self) -> bool:
        """Return whether a process serves several connections at the same time."""
        return self.mode is Mode.THREAD or (self.mode is Mode.PREFORK and (self.threads or 1) > 1)


class Option(NamedTuple):
    """How one setting is written: as a flag, and as FORKSERVE_<NAME> in the environment."""

    name: str
    parse: Callable[[str], Any]
    metavar: str
    help: str
    short: str = ""

    @property
    def flag(self) -> str:
        """The long flag."""
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        """The environment variable."""
        return "FORKSERVE_" + self.name.upper()


def whole(least: int) -> Callable[[str], int]:
    """Return what takes a whole number, from this one up, and raises ValueError for all else."""

    def parse(text: str) -> int:
        if not (text.isascii() and text.isdigit()) or int(text) < least:
            raise ValueError(f"{text!r} is not a whole number from {least} up")
        return int(text)

    return parse


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e9:
        raise ValueError(f"{text!r} is not a number of seconds")
    return value


def _choice(names: tuple[str, ...]) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in names:
            raise ValueError(f"{text!r} is not one of {', '.join(names)}")
        return text

    return parse


def _mode(text: str) -> Mode:
    return Mode(_choice(tuple(Mode))(text))


def _workers(text: str) -> int | None:
    return None if text == "auto" else whole(1)(text)


def _addresses(text: str) -> tuple[str, ...]:
    addresses = tuple(text.replace(",", " ").split())
    if not addresses:
        raise ValueError("the address is empty")
    for address in addresses:
        parse_address(address)
    return addresses


def _switch(text: str) -> bool:
    values = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
    if text.lower() not in values:
        raise ValueError(f"{text!r} is not one of {', '.join(values)}")
    return values[text.lower()]


OPTIONS = (
    Option(
        "bind",
        _addresses,
        "ADDRESS",
        "listen here; may be given several times. tcp://HOST:PORT, HOST:PORT, :PORT (IPv4 and"
        " IPv6), unix:///PATH, udp://HOST:PORT, unixgram:///PATH, fd://N; ?backlog=N, for datagrams"
        " ?max_size=BYTES&receive_buffer=BYTES, for paths ?mode=660",
        "-b",
    ),
    Option(
        "mode",
        _mode,
        "MODE",
        "iterative, thread, process or prefork: what serves a connection",
        "-m",
    ),
    Option(
        "workers",
        _workers,
        "N|auto",
        "worker processes; auto is one a CPU in prefork mode, else 1",
        "-w",
    ),
    Option(
        "threads",
        whole(1),
        "K",
        "threads a worker: the bound in thread mode; in prefork mode, so many at a time",
    ),
    Option("spare", whole(0), "K", "process mode: so many processes forked ahead"),
    Option(
        "connections_per_child",
        whole(1),
        "N",
        "process mode: a process serves so many connections, one after another",
    ),
    Option(
        "max_connections",
        whole(1),
        "N",
        "the whole server's bound; further clients wait in the backlog",
    ),
    Option(
        "drain_timeout", _seconds, "S", "at a stop, seconds until what still runs is interrupted"
    ),
    Option("boot_timeout", _seconds, "S", "seconds that a worker may take to become ready"),
    Option(
        "connection_timeout",
        _seconds,
        "S",
        "seconds that a connection may last before it is cut; 0: as long as it likes",
    ),
    Option(
        "liveness_timeout",
        _seconds,
        "S",
        "seconds until a worker that is stuck outside of its handlers is killed; 0: never",
    ),
    Option(
        "leader_start", str, "HOOK", "call this, package.module:name, before workers are forked"
    ),
    Option("worker_start", str, "HOOK", "call this in each worker before it is ready"),
    Option("worker_stop", str, "HOOK", "call this in each worker when it has served its last"),
    Option("no_supervise", _switch, "", "serve in this one process, for debuggers"),
    Option("reload", _switch, "", "load the code again when a file of it changes"),
    Option(
        "bind_retries",
        whole(0),
        "N",
        "try so many times more, 0.2 s apart, while an address is in use",
    ),
    Option(
        "ready_fd", whole(0), "FD", "when ready, write the addresses to this descriptor, close it"
    ),
    Option(
        "log_level", _choice(tuple(LEVELS)), "LEVEL", ", ".join(LEVELS) + ": least to be logged"
    ),
    Option("access_log", _switch, "", "log a line for each connection"),
)


def read_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    """Return the settings that FORKSERVE_ variables give; SettingsError names a wrong one."""
    given = {}
    for option in OPTIONS:
        text = environment.get(option.variable)
        if text:
            try:
                given[option.name] = option.parse(text)
            except ValueError as error:
                raise SettingsError(f"{option.variable}: {error}") from None
    return given


def check_ranges(settings: Settings) -> None:
    """Raise SettingsError for a number that the command would not take either."""
    for name, least in (
        ("workers", 1),
        ("threads", 1),
        ("spare", 0),
        ("connections_per_child", 1),
        ("max_connections", 1),
        ("bind_retries", 0),
        ("drain_timeout", 0),
        ("boot_timeout", 0),
        ("connection_timeout", 0),
        ("liveness_timeout", 0),
    ):
        value = getattr(settings, name)
        if value is not None and not isinstance(value, int | float):
            raise SettingsError(f"{name} is {value!r}, not a number")
        if value is not None and not value >= least:
            flag = "--" + name.replace("_", "-")
            raise SettingsError(f"{flag} {value} is too little: {least} at least")


def find_contradiction(settings: Settings) -> tuple[str, tuple[str, ...]] | None:
    """Return what is wrong with these settings together, and the names of those concerned."""
    mode = settings.mode
    if settings.threads is not None and mode not in (Mode.THREAD, Mode.PREFORK):
        return f"--threads has no meaning in {mode} mode", ("threads", "mode")
    if settings.spare and mode is not Mode.PROCESS:
        return f"--spare has no meaning in {mode} mode", ("spare", "mode")
    if settings.connections_per_child != 1 and mode is not Mode.PROCESS:
        return (
            f"--connections-per-child has no meaning in {mode} mode",
            ("connections_per_child", "mode"),
        )
    if settings.no_supervise and settings.count_workers() > 1 and settings.workers is not None:
        return (
            f"--no-supervise serves in one process, not in --workers {settings.workers}",
            ("no_supervise", "workers"),
        )
    if settings.no_supervise and settings.reload:
        return "--reload needs what --no-supervise does without", ("reload", "no_supervise")
    if settings.spare >= settings.max_connections:
        return (
            f"--spare {settings.spare} leaves no connection of --max-connections"
            f" {settings.max_connections}",
            ("spare", "max_connections"),
        )
    return None


def count_boots_at_once() -> int:
    """Return how many workers may boot at the same time."""
    return BOOTS_A_CPU * count_cpus()


def count_cpus() -> int:
    """Return how many CPUs this process may use, by its affinity and its cgroup's quota."""
    cpus = len(os.sched_getaffinity(0))
    quota = _read_quota()
    return cpus if quota is None else max(1, min(cpus, -(-quota[0] // quota[1])))


def _read_quota() -> tuple[int, int] | None:
    try:
        with open("/sys/fs/cgroup/cpu.max") as file:
            quota, period = file.read().split()
    except (OSError, ValueError):
        try:
            with open("/sys/fs/cgroup/cpu/cpu.cfs_quota_us") as file:
                quota = file.read().strip()
            with open("/sys/fs/cgroup/cpu/cpu.cfs_period_us") as file:
                period = file.read().strip()
        except OSError:
            return None
    if not quota.isdigit() or not period.isdigit():  # "max", or -1: no quota
        return None
    return int(quota), max(1, int(period))
