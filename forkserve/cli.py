"""The forkserve command: from arguments to an exit status."""

import sys

from forkserve import signals

# before the imports below: as PID 1 a signal without handler is lost
signals.take_over_at_boot(signals.INTERRUPTED if sys.argv[1:2] == ["bench"] else 0)

import argparse  # noqa: E402
import contextlib  # noqa: E402
import os  # noqa: E402
from collections.abc import Sequence  # noqa: E402
from typing import Any, NoReturn  # noqa: E402

from forkserve import __version__  # noqa: E402
from forkserve.address import DEFAULT_ADDRESS  # noqa: E402
from forkserve.errors import ForkserveError, SettingsError, UsageError  # noqa: E402
from forkserve.log import log, write_line  # noqa: E402
from forkserve.process.fork import leave_threads  # noqa: E402
from forkserve.settings import (  # noqa: E402
    OPTIONS,
    Option,
    Settings,
    find_contradiction,
    read_environment,
)
from forkserve.supervised import make_server, supervise, write_traceback  # noqa: E402


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status; never raises."""
    arguments = sys.argv[1:] if arguments is None else arguments
    _occupy_standard_descriptors()
    if arguments[:1] == ["bench"]:
        from forkserve.bench.command import main as bench  # of no use to those who serve

        return bench(arguments[1:])
    parser = _make_parser()
    known, unknown = parser.parse_known_args(arguments)
    given = vars(known)
    command, target = given.pop("command"), given.pop("target")
    if unknown:
        given.pop("parser").error(f"unrecognized arguments: {' '.join(unknown)}")
    del given["parser"]
    try:
        if not sys.platform.startswith("linux"):
            raise ForkserveError("forkserve runs on Linux only")
        settings = read_settings(given, os.environ)
        log.to_standard_error(settings.log_level)
        if command == "check":
            make_server(target, settings).close()
            _say(f"forkserve: {target} can be served in {settings.mode} mode")
        elif settings.no_supervise:
            make_server(target, settings).run_alone(ready_fd=settings.ready_fd)
            leave_threads()
        else:
            supervise(target, settings)
    except ForkserveError as error:
        return _fail(error)
    except KeyboardInterrupt:
        return 0
    return 0


def _occupy_standard_descriptors() -> None:
    """Have /dev/null where 0, 1 or 2 is closed.

    Else a socket or a handler's file would get that number, and our log.
    """
    with contextlib.suppress(OSError):  # there may be no /dev/null
        while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
            pass
        os.close(descriptor)


def read_settings(flags: dict[str, Any], environment: Any) -> Settings:
    """Return the settings: flags before variables before defaults.

    Raises UsageError where flags contradict each other, SettingsError where a variable is wrong
    or has a part in it.
    """
    variables = read_environment(environment)
    given = variables | {name: value for name, value in flags.items() if value is not None}
    settings = Settings(**given)
    wrong = find_contradiction(settings)
    if wrong is not None:
        message, names = wrong
        from_variables = [n for n in names if n in variables and flags.get(n) is None]
        if not from_variables:
            raise UsageError(message)
        blamed = ", ".join(f"FORKSERVE_{name.upper()}" for name in from_variables)
        raise SettingsError(f"{message} (from {blamed})")
    if settings.ready_fd is not None:
        try:
            os.fstat(settings.ready_fd)
        except OSError as error:
            raise SettingsError(f"--ready-fd {settings.ready_fd}: {error.strerror}") from None
    return settings


def _fail(error: ForkserveError) -> int:
    write_traceback(error)
    _say(f"forkserve: error: {error}")
    return error.exit_status


def _say(line: str) -> None:
    write_line(line)


def _format_help(prog: str) -> argparse.HelpFormatter:
    """Return a formatter that knows its width: else argparse imports shutil to ask for it."""
    try:
        width = os.get_terminal_size().columns - 2
    except OSError:
        width = 98
    return argparse.HelpFormatter(prog, width=width)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, instead of the whole usage and then that."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=_format_help, allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        write_line(f"{self.prog}: error: {message} (see {self.prog} --help)")
        raise SystemExit(2)


class _Addresses(argparse.Action):
    """Collects the addresses of several -b."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option: Any = None) -> None:
        setattr(namespace, self.dest, (getattr(namespace, self.dest) or ()) + values)


def _make_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="forkserve",
        description="Serve a handler in the concurrency mode that a flag names.",
    )
    parser.add_argument("--version", action="version", version=f"forkserve {__version__}")
    commands = parser.add_subparsers(
        dest="command",
        metavar="COMMAND",
        required=True,
        prog="forkserve",
        parser_class=_Parser,
    )
    for name, text in (
        ("run", "serve until TERM or INT"),
        ("check", "import the target and check the settings, but listen nowhere"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(parser=command)
        command.add_argument(
            "target",
            metavar="TARGET",
            help="what to serve: package.module:name or path/to/file.py:name",
        )
        for option in OPTIONS:
            _add_option(command, option)
    commands.add_parser("bench", help="run a handler in every mode and say which one fits it")
    return parser


def _add_option(parser: argparse.ArgumentParser, option: Option) -> None:
    default = Settings._field_defaults[option.name]
    text = f"{option.help} {_describe_default(option, default)}"
    names = [option.short, option.flag] if option.short else [option.flag]
    if isinstance(default, bool):
        parser.add_argument(*names, action="store_true", default=None, help=text)
        return

    def parse(value: str) -> Any:
        try:
            return option.parse(value)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    parser.add_argument(
        *names,
        type=parse,
        metavar=option.metavar,
        default=None,
        action=_Addresses if option.name == "bind" else "store",
        help=text.replace("%", "%%"),
    )


def _describe_default(option: Option, default: object) -> str:
    if default is None:
        shown = "auto" if option.name == "workers" else "none"
    elif isinstance(default, bool):
        shown = "on" if default else "off"
    elif isinstance(default, tuple):
        shown = " ".join(default) or DEFAULT_ADDRESS
    elif isinstance(default, float):
        shown = f"{default:g}"
    else:
        shown = str(default)
    return f"[default: {shown}; env: {option.variable}]"
