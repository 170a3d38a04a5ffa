"""The command `forkserve bench`: from arguments to tables, a recommendation and an exit status."""

import json
import shlex
import sys
from collections.abc import Sequence
from typing import Any

from forkserve import signals
from forkserve.bench import environment, show
from forkserve.bench.arguments import Plan, parse
from forkserve.bench.conversation import Script, ScriptError
from forkserve.bench.conversation import show as show_bytes_sent
from forkserve.bench.errors import BenchError
from forkserve.bench.measured import Measured
from forkserve.bench.recommend import Recommendation, recommend
from forkserve.bench.server import ServerFailed, end_strays
from forkserve.bench.session import ANYWHERE, Session
from forkserve.bench.variants import make_variants
from forkserve.errors import ForkserveError
from forkserve.log import write_line
from forkserve.settings import count_cpus


def main(arguments: Sequence[str]) -> int:
    """Measure, print, and return the exit status; never raises but SystemExit."""
    if sys.stdout is None:
        return _fail(BenchError("standard output is closed"))
    try:
        signals.raise_when_ended()
        return _bench(parse(arguments))
    except KeyboardInterrupt:
        return signals.INTERRUPTED
    finally:
        end_strays()


def _bench(plan: Plan) -> int:
    variants = make_variants(
        plan.modes,
        plan.workers,
        plan.threads,
        cpus=count_cpus(),
        clients=max(plan.concurrency) + plan.idle,
    )
    session = Session(plan, variants)
    surroundings = environment.describe()
    status = 0
    try:
        _print(f"{plan.target}: {_describe_load(plan)}")
        _print(f"{environment.in_one_line(surroundings)}\n")
        session.run()
    except KeyboardInterrupt:
        status = signals.INTERRUPTED
    except (ForkserveError, ScriptError, ServerFailed, OSError) as error:
        return _fail(error)
    try:
        _report(session, plan, surroundings)
    except OSError as error:
        return _fail(error)
    return status


def _fail(error: Exception) -> int:
    """Say in the last line what was wrong, before it what a server had to say of it."""
    said = getattr(error, "said", "").rstrip()
    if said:
        write_line(said)
    write_line(f"forkserve: error: {error.what if isinstance(error, ServerFailed) else error}")
    return error.exit_status if isinstance(error, BenchError) else 1


def _report(session: Session, plan: Plan, surroundings: dict[str, Any]) -> None:
    measured = list(session.measured.values())
    found = recommend(measured, session.profile, idle=plan.idle, is_open_loop=plan.rate > 0)
    if not session.is_whole:
        turns = sum(len(found) for one in measured for found in one.turns.values())
        able = sum(not one.excluded for one in measured)
        steps = able * len(plan.concurrency) * plan.rounds
        _print(f"interrupted: this is what {turns} of {steps} turns have shown\n")
    for table in show.make_tables(measured, plan.concurrency, are_kept=plan.requests != 1):
        _print(table.as_text() + "\n")
    command = "" if found is None else _command(found, plan, session.bind)
    _print(_describe(found, command))
    if plan.json is not None:
        values = {
            "target": plan.target,
            "load": _describe_load(plan),
            "environment": surroundings,
            "command": command or None,
            "is_whole": session.is_whole,
            **show.as_json(measured, session.profile, found),
        }
        plan.json.write_text(json.dumps(values, indent=1) + "\n")
    if plan.html is not None:
        plan.html.write_text(_make_page(plan, measured, found, command, surroundings))


def _describe(found: Recommendation | None, command: str) -> str:
    if found is None:
        return "nothing was measured"
    lines = [
        f"use {found.variant.name}:",
        f"  {command}",
        *found.reasons,
        found.sureness,
    ]
    lines += [f"note: {warning}" for warning in found.warnings]
    return "\n  ".join(lines)


def _command(found: Recommendation, plan: Plan, bind: str) -> str:
    address = () if bind == ANYWHERE else ("-b", bind)
    return shlex.join(
        ["forkserve", "run", plan.target, *found.variant.flags, *address, *plan.options]
    )


def _describe_load(plan: Plan) -> str:
    if isinstance(plan.send, Script):
        what = f"the conversation of {plan.send.path}"
    else:
        what = f"{len(plan.send)} bytes sent ({show_bytes_sent(plan.send)})"
    kept = {0: "on kept connections", 1: "a connection for each"}.get(
        plan.requests, f"{plan.requests} on each connection"
    )
    pace = f"{plan.rate:g} a second fall due" if plan.rate else "each client asks when answered"
    idle = f", beside {plan.idle} idle connections" if plan.idle else ""
    return f"{what}, {kept}, {pace}{idle}; {plan.rounds} rounds of {plan.seconds:g} s"


def _make_page(
    plan: Plan,
    measured: Sequence[Measured],
    found: Recommendation | None,
    command: str,
    surroundings: dict[str, Any],
) -> str:
    from forkserve.bench.page import Heading, Text, render

    parts: list[Any] = [Text(_describe_load(plan))]
    if found is not None:
        parts.append(Heading(f"Use {found.variant.name}", 2))
        lines = (command, *found.reasons, found.sureness, *found.warnings)
        parts += map(Text, lines)
    parts += show.make_tables(measured, plan.concurrency, are_kept=plan.requests != 1)
    parts += show.make_charts(measured, plan.concurrency)
    return render(f"{plan.target} in every mode", parts, environment=surroundings)


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
