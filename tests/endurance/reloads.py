"""Reload under load, with code that is right and code that is broken."""

import os
import py_compile
import re
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.endurance.breakages import BOOT_TIMEOUT, BREAKAGES, EXPECTED, Breakage
from tests.endurance.load import Load
from tests.endurance.scenario import Findings, Scenario
from tests.endurance.site import ADOPTED, HANDLER, Code, Site, serving, straddling
from tests.support.modes import MODE, MODES, Mode
from tests.support.server import TCP
from tests.support.waiting import Stopwatch, becomes

STORM_INTERVAL = 0.04
LATENESS = 5.0  # where others use the machine too
ECHO = Code(HANDLER, "app.py:Echo")


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many reloads one after another, how many at once, and for how many connections."""

    reloads: int
    storm: int
    connections: int


@dataclass(frozen=True, slots=True)
class Rounds:
    """How often everything is done."""

    rounds: int


@dataclass(frozen=True, slots=True)
class Breaks:
    """How often which kinds are tried, and how many times later than promised is in time."""

    rounds: int
    kinds: Sequence[Breakage]
    lateness: float = 1.0


def free_port() -> int:
    """Return a port that was free just now, for a server object that names its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def reload_handler(mode: Mode, transport: str, sizes: Sizes, found: Findings) -> None:
    """Reload a handler whose addresses the command names."""
    address = TCP if transport == "tcp" else f"unix://{found.folder}/s"
    with serving(ECHO, found.folder, mode, address=address) as site:
        _reload_under_load(site, sizes, found)


def reload_adopted(mode: Mode, transport: str, sizes: Sizes, found: Findings) -> None:
    """Reload a server object that binds its own address whenever it is made."""
    with serving(_adopted(transport, found.folder), found.folder, mode) as site:
        _reload_under_load(site, sizes, found)


def _adopted(transport: str, folder: Path) -> Code:
    if transport == "tcp":
        return _adopted_at(("127.0.0.1", free_port()), "ThreadingTCPServer")
    return _adopted_at(f"{folder}/s", "UnixStreamServer")


def _adopted_at(place: object, server: str) -> Code:
    source = ADOPTED.replace("SERVER", server).replace("ADDRESS", repr(place))
    return Code(source, "app.py:server")


def _reload_under_load(site: Site, sizes: Sizes, found: Findings) -> None:
    workers = len(site.workers())
    with Load(site.server.address) as load:
        for number in range(sizes.reloads):
            load.wait_for(sizes.connections * number // sizes.reloads)
            _reload_once(site, found)
        found.count("reloads", sizes.reloads)
        _storm(site, sizes, found)
        load.wait_for(sizes.connections)
    found.promise_no_failure(load)
    _see_one_generation(site, workers, found)


def _reload_once(site: Site, found: Findings) -> None:
    site.deploy()
    with straddling(site.server.address):
        found.slowest("slowest reload s", site.reload())
        site.wait_until_served()


def _storm(site: Site, sizes: Sizes, found: Findings) -> None:
    watch = Stopwatch()
    site.storm(sizes.storm, STORM_INTERVAL)
    site.wait_until_served(30)
    found.count("storm of", sizes.storm)
    found.slowest("storm s", watch.seconds)


def _see_one_generation(site: Site, workers: int, found: Findings) -> None:
    site.wait_for_one_generation(workers)
    served = {site.served_version() for _ in range(2 * workers)}
    found.promise(served == {site.version}, f"{served} served, not {site.version}")
    found.promise(site.server.is_running(), "the supervisor has ended")


def break_handler(mode: Mode, transport: str, breaks: Breaks, found: Findings) -> None:
    """Reload a handler with every kind of broken code, and with good code after each."""
    address = TCP if transport == "tcp" else f"unix://{found.folder}/s"
    limit = ("--boot-timeout", str(BOOT_TIMEOUT))
    with (
        serving(ECHO, found.folder, mode, *limit, address=address, expect=EXPECTED) as site,
        Load(site.server.address) as load,
    ):
        for breakage in [*breaks.kinds, MISSING] * breaks.rounds:
            _break_once(site, load, breakage, breaks.lateness, found)
        load.stop()
        found.promise_no_failure(load)


def break_adopted(mode: Mode, transport: str, breaks: Breaks, found: Findings) -> None:
    """Reload a server object that has moved to an address that is another's."""
    code = _adopted(transport, found.folder)
    with (
        socket.create_server(("127.0.0.1", 0)) as other,
        serving(code, found.folder, mode, expect=EXPECTED) as site,
        Load(site.server.address) as load,
    ):
        taken = _adopted_at(other.getsockname(), "ThreadingTCPServer").source
        for breakage in [Breakage("address taken", taken, "in use", is_all=True)] * breaks.rounds:
            _break_once(site, load, breakage, breaks.lateness, found)
        load.stop()
        found.promise_no_failure(load)


MISSING = Breakage("file missing", "", "no file")


def _break_once(
    site: Site, load: Load, breakage: Breakage, lateness: float, found: Findings
) -> None:
    """Fail to reload, which must harm nobody, and then reload good code."""
    try:
        before, version = site.workers(), site.served_version()
        _deploy(site, breakage)
        reason, seconds = site.fail_to_reload()
        becomes(before, site.workers, 5)
        load.wait_for_more(50)
        found.promise(version == site.served_version(), f"{breakage.name}: it is served")
        _judge(breakage, reason, found)
        found.slowest(f"slowest report s ({'hanging' if breakage.hangs else 'other'})", seconds)
        in_time = seconds <= breakage.limit * lateness
        found.promise(in_time, f"{breakage.name}: reported after {seconds:.2f} s")
        site.deploy()
        found.slowest("slowest reload s", site.reload())
        site.wait_until_served()
        site.wait_for_one_generation(len(before))
    except BaseException as error:
        error.add_note(f"with {breakage.name}")
        raise


def _deploy(site: Site, breakage: Breakage) -> None:
    if breakage is MISSING:
        site.file.unlink()
    else:
        site.deploy(breakage.lines if breakage.is_all else site.broken_by(breakage.lines))


def _judge(breakage: Breakage, reason: str, found: Findings) -> None:
    found.count("broken reloads", 1)
    said = re.search(breakage.reason, reason)
    found.promise(said is not None, f"{breakage.name}: the reason given was {reason!r}")


def leave_thread(mode: Mode, rounds: Rounds, found: Findings) -> None:
    """Reload code whose import leaves a thread running: that is served, with a warning."""
    source = f"{HANDLER}\n\nimport threading\n\n{LEFT_THREAD}"
    with (
        serving(ECHO, found.folder, mode, address=TCP, expect=r"use of fork\(\)") as site,
        Load(site.server.address) as load,
    ):
        for _ in range(rounds.rounds):
            site.deploy(source)
            found.slowest("slowest reload s", site.reload())
            site.wait_until_served()
        site.server.wait_for_line("WARNING.*thread")
        load.stop()
        found.promise_no_failure(load)


LEFT_THREAD = "threading.Thread(target=threading.Event().wait, daemon=True).start()\n"


def edit_within_a_second(target: str, rounds: Rounds, found: Findings) -> None:
    """Reload edits that neither the size nor the time of the file betrays."""
    moment = int(time.time()) * 10**9
    with serving(Code(HANDLER, target), found.folder, MODE["prefork"], address=TCP) as site:
        for _ in range(rounds.rounds):
            py_compile.compile(str(site.file))  # as an import that writes a .pyc leaves it
            site.deploy()
            os.utime(site.file, ns=(moment, moment))
            site.reload()
            site.wait_until_served()
            found.count("edits", 1)


ADOPTED_MODES = [MODE["thread"], MODE["prefork"]]
TRANSPORTS = ["tcp", "unix"]


def _sizes(mode: Mode) -> tuple[Sizes, Sizes]:
    """Return the sizes for every commit and the full ones; forking for each connection is slow."""
    if mode.mode == "process":
        return Sizes(10, 40, 500), Sizes(50, 40, 5_000)
    return Sizes(10, 40, 9_000), Sizes(50, 40, 100_000)


def _breaks(number: int) -> tuple[Breaks, Breaks]:
    """Return for every commit a third of the kinds, another one in the next mode, and all."""
    return Breaks(1, BREAKAGES[number % 3 :: 3], LATENESS), Breaks(3, BREAKAGES)


GOOD = tuple(
    Scenario(
        f"reload-{mode.name}-{transport}", partial(reload_handler, mode, transport), *_sizes(mode)
    )
    for mode in MODES
    for transport in TRANSPORTS
)
GOOD_ADOPTED = tuple(
    Scenario(
        f"reload-adopted-{mode.name}-{transport}",
        partial(reload_adopted, mode, transport),
        *_sizes(mode),
    )
    for mode in ADOPTED_MODES
    for transport in TRANSPORTS
)
BROKEN = tuple(
    Scenario(f"broken-{mode.name}", partial(break_handler, mode, "tcp"), *_breaks(number))
    for number, mode in enumerate(MODES)
)
BROKEN_ADOPTED = tuple(
    Scenario(
        f"broken-adopted-{mode.name}-{transport}",
        partial(break_adopted, mode, transport),
        Breaks(1, (), LATENESS),
        Breaks(20, ()),
    )
    for mode in ADOPTED_MODES
    for transport in TRANSPORTS
)
LEFT_THREADS = tuple(
    Scenario(f"left-thread-{mode.name}", partial(leave_thread, mode), Rounds(2), Rounds(20))
    for mode in MODES
)
EDITS = tuple(
    Scenario(f"edit-{how}", partial(edit_within_a_second, target), Rounds(3), Rounds(50))
    for how, target in (("file", "app.py:Echo"), ("module", "app:Echo"))
)
SCENARIOS = GOOD + GOOD_ADOPTED + BROKEN + BROKEN_ADOPTED + LEFT_THREADS + EDITS
