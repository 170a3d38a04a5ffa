"""Read an address as a user writes it."""

from typing import NamedTuple

from forkserve.errors import SettingsError

DEFAULT_ADDRESS = "tcp://127.0.0.1:9000"
DEFAULT_BACKLOG = 2048
DEFAULT_MODE = 0o660
LONGEST_PATH = 107  # sun_path is 108 bytes with its end (unix(7))

_LATER = ("udp", "unixgram", "tls", "fd", "systemd")


class TCPAddress(NamedTuple):
    """A host and a port; no host means every address of this machine, IPv4 and IPv6."""

    text: str
    host: str | None
    port: int
    backlog: int = DEFAULT_BACKLOG

    def __str__(self) -> str:
        return format_tcp(self.host or "::", self.port)


class UnixAddress(NamedTuple):
    """The path of a Unix stream socket and the mode of its file."""

    text: str
    path: str
    backlog: int = DEFAULT_BACKLOG
    mode: int = DEFAULT_MODE

    def __str__(self) -> str:
        return f"unix://{self.path}"


Address = TCPAddress | UnixAddress


def format_tcp(host: str, port: int) -> str:
    """Return the address as ready lines show it."""
    return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"


def parse_address(text: str) -> Address:
    """Return what the text means, or raise SettingsError saying what is wrong with it."""
    if not isinstance(text, str):
        raise SettingsError(f"address {text!r}: expected a string, as in 'tcp://127.0.0.1:9000'")
    if text.startswith(("/", "./", "unix:")) and not text.startswith("unix://"):
        path = text.removeprefix("unix:")
        raise SettingsError(f"address {text!r}: a Unix socket is written unix://{path}")
    if text.startswith("tcp:") and not text.startswith("tcp://"):
        raise SettingsError(f"address {text!r}: expected tcp://HOST:PORT")
    place, _, query = text.partition("?")
    scheme, separator, rest = place.partition("://")
    if not separator:
        scheme, rest = ("systemd", "") if place.startswith("systemd:") else ("tcp", place)
    if scheme in _LATER:
        raise SettingsError(f"address {text!r}: {scheme} addresses are not supported yet")
    options = _parse_query(text, query)
    backlog = _take_number(text, options, "backlog", DEFAULT_BACKLOG, base=10, least=1)
    if scheme == "tcp":
        host, port = _split_host(text, rest)
        _refuse_rest(text, options)
        return TCPAddress(text, host, port, backlog)
    if scheme == "unix":
        mode = _take_number(text, options, "mode", DEFAULT_MODE, base=8, least=0)
        if mode > 0o777:
            raise SettingsError(f"address {text!r}: mode is {mode:o}, and 777 at most")
        _refuse_rest(text, options)
        return UnixAddress(text, _check_path(text, rest), backlog, mode)
    raise SettingsError(f"address {text!r}: unknown scheme {scheme!r} (tcp and unix are known)")


def _split_host(text: str, place: str) -> tuple[str | None, int]:
    host, colon, port = place.rpartition(":")
    is_number = port.isascii() and port.isdigit() and len(port) <= 5
    if not colon or not is_number or int(port) > 65535:
        raise SettingsError(f"address {text!r}: expected HOST:PORT with a port from 0 to 65535")
    if host.startswith("[") and host.endswith("]") and len(host) > 2:
        return host[1:-1], int(port)
    if ":" in host or "[" in host:
        raise SettingsError(f"address {text!r}: an IPv6 address goes in brackets, as in [::1]:9000")
    return host or None, int(port)


def _check_path(text: str, path: str) -> str:
    if not path or "\0" in path:
        raise SettingsError(f"address {text!r}: expected a path, as in unix:///run/x.sock")
    length = len(path.encode("utf-8", "surrogateescape"))
    if length > LONGEST_PATH:
        raise SettingsError(
            f"address {text!r}: the path has {length} bytes, and a Unix socket's {LONGEST_PATH}"
            " at most"
        )
    return path


def _parse_query(text: str, query: str) -> dict[str, str]:
    options = {}
    for item in query.split("&") if query else ():
        name, equals, value = item.partition("=")
        if not equals:
            raise SettingsError(f"address {text!r}: expected NAME=VALUE after '?', not {item!r}")
        if name in options:
            raise SettingsError(f"address {text!r}: {name} is given twice")
        options[name] = value
    return options


def _take_number(
    text: str, options: dict[str, str], name: str, default: int, *, base: int, least: int
) -> int:
    value = options.pop(name, None)
    if value is None:
        return default
    try:
        number = int(value, base)
    except ValueError:
        number = -1
    if not value.isascii() or not value.isdigit() or not least <= number < 1 << 31:
        kind = "an octal number" if base == 8 else f"a number from {least} up"
        raise SettingsError(f"address {text!r}: {name} is {value!r}, not {kind}")
    return number


def _refuse_rest(text: str, options: dict[str, str]) -> None:
    if options:
        raise SettingsError(f"address {text!r}: unknown option {next(iter(options))!r}")
