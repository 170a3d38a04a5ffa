"""The command line of `forkserve bench`."""

import argparse
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from forkserve.address import parse_address
from forkserve.bench.conversation import Script
from forkserve.log import write_line
from forkserve.settings import OPTIONS, Mode, count_cpus, whole

FEWEST = 20  # requests in a turn at a rate
QUESTION = b"x" * 63 + b"\n"
CHOSEN_BY_US = {"bind": "-b", "mode": "--modes", "workers": "--workers", "threads": "--threads"}
EXAMPLES = """\
examples:
  forkserve bench examples/echo.py:Echo --quick
  forkserve bench app.py:Handler --send 'PING\\r\\n' --concurrency 1,32,256 --html report.html
  forkserve bench app.py:Handler --send @talk.py --requests 0      kept connections, scripted
  forkserve bench app.py:Handler --rate 500 --modes thread,prefork --threads 8,32
  forkserve bench app.py:Handler --idle 5000                       beside idle connections

a script has a function converse(number), a generator that yields steps of forkserve.bench:
  from forkserve.bench import ReadUntil, Send
  def converse(number):
      yield ReadUntil(b"\\n")
      yield Send(b"NOOP\\r\\n")
      assert (yield ReadUntil(b"\\n")) == b"250 OK\\r\\n"
"""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be measured, and where it goes."""

    target: str
    bind: str | None
    send: bytes | Script
    modes: tuple[Mode, ...]
    workers: tuple[int, ...]
    threads: tuple[int, ...]
    concurrency: tuple[int, ...]
    rate: float
    requests: int
    idle: int
    clients: int
    rounds: int
    seconds: float
    json: Path | None
    html: Path | None
    options: tuple[str, ...]  # for forkserve run

    @property
    def is_fixed(self) -> bool:
        """Whether the address is one that only one server at a time can have."""
        return self.bind is not None and not self.bind.endswith(":0")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        write_line(f"{self.prog}: error: {message} (see {self.prog} --help)")
        raise SystemExit(2)


class _Once(argparse.Action):
    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option: str | None = None,
    ) -> None:
        if getattr(namespace, self.dest) is not None:
            parser.error(f"argument {option}: given twice; one address is measured at a time")
        setattr(namespace, self.dest, values)


def parse(arguments: Sequence[str]) -> Plan:
    """Return the plan of a command line; ends the program with 2 where that is malformed."""
    ours, options = list(arguments), []
    if "--" in ours:
        at = ours.index("--")
        ours, options = ours[:at], ours[at + 1 :]
    parser = _make_parser()
    given = vars(parser.parse_args(ours))
    wrong = _find_wrong_option(options) or _find_variable() or _find_unwritable(given)
    if wrong:
        parser.error(wrong)
    quick = given.pop("quick")
    for name, full, small in (("rounds", 5, 3), ("seconds", 1.0, 0.4)):
        if given[name] is None:
            given[name] = small if quick else full
    if given["rate"] and given["rate"] * given["seconds"] < FEWEST:
        parser.error(
            f"--rate {given['rate']:g} gives fewer than {FEWEST} requests in a turn of"
            f" {given['seconds']:g} s: ask for more --seconds"
        )
    return Plan(**given, options=tuple(options))


def _find_wrong_option(options: Sequence[str]) -> str:
    """Return what is wrong with an option for forkserve run that would undo what is compared."""
    for option in OPTIONS:
        instead = CHOSEN_BY_US.get(option.name)
        flags = [option.flag, option.short] if option.short else [option.flag]
        for word in options:
            is_short = bool(option.short) and word.startswith(option.short) and word[1:2] != "-"
            if instead and (word.partition("=")[0] in flags or is_short):
                return f"{word} after --: that is for {instead} before it"
    return ""


def _find_variable() -> str:
    """Return what is wrong with the environment: servers take from it what no flag says."""
    for name in ("FORKSERVE_WORKERS", "FORKSERVE_THREADS"):
        if os.environ.get(name):
            flag = name.removeprefix("FORKSERVE_").lower()
            return f"{name} is set, it would change what is compared: unset it and use --{flag}"
    return ""


def _find_unwritable(given: dict[str, Any]) -> str:
    """Return which of the files to be written could not be, before minutes are spent on it."""
    for name in ("json", "html"):
        path = given[name]
        if path is not None and (path.is_dir() or not os.access(path.parent, os.W_OK)):
            return f"argument --{name}: {str(path)!r} cannot be written"
    return ""


def _make_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="forkserve bench",
        description="Run a handler in every mode under the same load, and say which one fits it.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("target", metavar="TARGET", help="what to serve, as for forkserve run")
    add(
        "--send",
        type=_valid(_send),
        default=QUESTION,
        metavar="BYTES|FILE|@SCRIPT.py",
        help="what each client sends: bytes with escapes like \\n, a file's contents, or a script"
        " of a whole conversation [default: a line of 64 bytes]",
    )
    add(
        "--concurrency",
        type=_valid(_numbers(1)),
        default=(1, 8, 64),
        metavar="N,...",
        help="clients at a time [default: 1,8,64]",
    )
    add(
        "--rate",
        type=_valid(_positive),
        default=0.0,
        metavar="R",
        help="so many requests a second fall due, whatever the server does, and their time counts"
        " from then [default: each client asks again when it has its answer]",
    )
    add(
        "--requests",
        type=_valid(whole(0)),
        default=1,
        metavar="N",
        help="requests on each connection, 0: as many as there is time for [default: 1]",
    )
    add(
        "--idle",
        type=_valid(whole(0)),
        default=0,
        metavar="N",
        help="hold so many idle connections beside the load [default: 0]",
    )
    add(
        "--modes",
        type=_valid(_modes),
        default=tuple(Mode),
        metavar="MODE,...",
        help="[default: all four]",
    )
    add(
        "--workers",
        type=_valid(_numbers(1)),
        default=(),
        metavar="N,...",
        help="numbers of workers to try [default: 1, in prefork mode one a CPU"
        f" ({count_cpus()} here)]",
    )
    add(
        "--threads",
        type=_valid(_numbers(1)),
        default=(),
        metavar="K,...",
        help="threads a worker to try in prefork mode, beside one [default: so"
        " many that each client has a place]",
    )
    add(
        "--clients",
        type=_valid(whole(1)),
        default=1,
        metavar="N",
        help="client processes that make the load [default: 1]",
    )
    add("--rounds", type=_valid(whole(1)), metavar="N", help="[default: 5, 3 with --quick]")
    add(
        "--seconds",
        type=_valid(_positive),
        metavar="S",
        help="of each turn [default: 1, 0.4 with --quick]",
    )
    add("--quick", action="store_true", help="shorter, and less sure")
    add(
        "-b",
        "--bind",
        action=_Once,
        type=_valid(_address),
        metavar="ADDRESS",
        help="tcp://, unix://, udp:// or unixgram://; port 0 lets the servers stand at the same"
        " time [default: tcp://127.0.0.1:0, for a handler of datagrams udp://127.0.0.1:0]",
    )
    add("--json", type=Path, metavar="FILE", help="write all figures there")
    add("--html", type=Path, metavar="FILE", help="write a page with charts there")
    parser.usage = "%(prog)s TARGET [options] [-- options of forkserve run]"
    return parser


def _valid(parse_text: Callable[[str], Any]) -> Callable[[str], Any]:
    def check(text: str) -> Any:
        try:
            return parse_text(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return check


def _numbers(least: int) -> Callable[[str], tuple[int, ...]]:
    one = whole(least)
    return lambda text: tuple(sorted({one(part) for part in text.split(",")}))


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e9:
        raise ValueError(f"{text!r} is not a number above 0")
    return value


def _modes(text: str) -> tuple[Mode, ...]:
    names = text.split(",")
    for name in names:
        if name not in tuple(Mode):
            raise ValueError(f"{name!r} is not one of {', '.join(Mode)}")
    return tuple(Mode(name) for name in dict.fromkeys(names))


def _address(text: str) -> str:
    parse_address(text)
    if "://" not in text:
        text = f"tcp://{text}"
    scheme = text.partition("://")[0]
    if scheme not in ("tcp", "unix", "udp", "unixgram"):
        raise ValueError(f"{text!r} does not begin with tcp://, unix://, udp:// or unixgram://")
    return text


def _send(text: str) -> bytes | Script:
    """Return the bytes that a shell word stands for: as typed, that is UTF-8, and escapes."""
    if text.startswith("@"):
        return Script(text[1:])
    if os.path.isfile(text):
        return Path(text).read_bytes()
    try:
        return text.encode().decode("unicode_escape").encode("latin-1")
    except UnicodeDecodeError as error:
        raise ValueError(f"{text!r}: {error.reason}") from None
    except UnicodeEncodeError:
        raise ValueError(f"{text!r}: an escape beyond \\xff is not a byte") from None
