"""Read an address as a user writes it."""

from collections.abc import Callable
from typing import NamedTuple

from forkserve.errors import SettingsError

DEFAULT_ADDRESS = "tcp://127.0.0.1:9000"
DEFAULT_BACKLOG = 2048
DEFAULT_MODE = 0o660
LONGEST_PATH = 107  # sun_path is 108 bytes with its end (unix(7))

DEFAULT_SIZE = 65536  # more than UDP can carry, so over UDP nothing is ever cut

_LATER = ("tls", "systemd")
_SHAPES = {
    "tcp": "tcp://HOST:PORT",
    "udp": "udp://HOST:PORT",
    "unixgram": "unixgram:///PATH",
    "fd": "fd://NUMBER",
}


class TCPAddress(NamedTuple):
    """A host and a port; no host means every address of this machine, IPv4 and IPv6."""

    text: str
    host: str | None
    port: int
    backlog: int = DEFAULT_BACKLOG

    @property
    def is_datagram(self) -> bool:
        """Say that it brings connections."""
        return False

    def __str__(self) -> str:
        return format_inet("tcp", self.host or "::", self.port)


class UDPAddress(NamedTuple):
    """A host and a port for datagrams, the largest that is taken whole, and room for how many.

    ``receive_buffer`` is the size of the kernel's queue in bytes (SO_RCVBUF, socket(7)).
    """

    text: str
    host: str | None
    port: int
    max_size: int = DEFAULT_SIZE
    receive_buffer: int | None = None

    @property
    def is_datagram(self) -> bool:
        """Say that it brings datagrams."""
        return True

    def __str__(self) -> str:
        return format_inet("udp", self.host or "::", self.port)


class UnixAddress(NamedTuple):
    """The path of a Unix stream socket and the mode of its file."""

    text: str
    path: str
    backlog: int = DEFAULT_BACKLOG
    mode: int = DEFAULT_MODE

    @property
    def is_datagram(self) -> bool:
        """Say that it brings connections."""
        return False

    def __str__(self) -> str:
        return f"unix://{self.path}"


class UnixgramAddress(NamedTuple):
    """The path of a Unix datagram socket, the mode of its file, and sizes as for UDP."""

    text: str
    path: str
    mode: int = DEFAULT_MODE
    max_size: int = DEFAULT_SIZE
    receive_buffer: int | None = None

    @property
    def is_datagram(self) -> bool:
        """Say that it brings datagrams."""
        return True

    def __str__(self) -> str:
        return f"unixgram://{self.path}"


class InheritedAddress(NamedTuple):
    """The number of a descriptor that was handed to this process, bound and listening."""

    text: str
    descriptor: int

    @property
    def is_datagram(self) -> None:
        """Say that it is not known before it is looked at."""

    def __str__(self) -> str:
        return f"fd://{self.descriptor}"


InetAddress = TCPAddress | UDPAddress
PathAddress = UnixAddress | UnixgramAddress
Address = InetAddress | PathAddress | InheritedAddress


def format_inet(scheme: str, host: str, port: int) -> str:
    """Return the address as ready lines show it."""
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def parse_address(text: str) -> Address:
    """Return what the text means, or raise SettingsError saying what is wrong with it."""
    if not isinstance(text, str):
        raise SettingsError(f"address {text!r}: expected a string, as in 'tcp://127.0.0.1:9000'")
    if text.startswith(("/", "./", "unix:")) and not text.startswith("unix://"):
        path = text.removeprefix("unix:")
        raise SettingsError(f"address {text!r}: a Unix socket is written unix://{path}")
    head, _, rest = text.partition(":")
    if head in _SHAPES and not rest.startswith("//"):
        raise SettingsError(f"address {text!r}: expected {_SHAPES[head]}")
    place, _, query = text.partition("?")
    scheme, separator, rest = place.partition("://")
    if not separator:
        scheme, rest = ("systemd", "") if place.startswith("systemd:") else ("tcp", place)
    if scheme in _LATER:
        raise SettingsError(f"address {text!r}: {scheme} addresses are not supported yet")
    if scheme not in _READERS:
        known = ", ".join(_READERS)
        raise SettingsError(f"address {text!r}: unknown scheme {scheme!r} ({known} are known)")
    options = _parse_query(text, query)
    address = _READERS[scheme](text, rest, options)
    if options:
        raise SettingsError(f"address {text!r}: unknown option {next(iter(options))!r}")
    return address


def _read_tcp(text: str, place: str, options: dict[str, str]) -> TCPAddress:
    return TCPAddress(text, *_split_host(text, place), _take_backlog(text, options))


def _read_udp(text: str, place: str, options: dict[str, str]) -> UDPAddress:
    return UDPAddress(text, *_split_host(text, place), *_take_sizes(text, options))


def _read_unix(text: str, place: str, options: dict[str, str]) -> UnixAddress:
    backlog = _take_backlog(text, options)
    mode = _take_mode(text, options)
    return UnixAddress(text, _check_path(text, place), backlog, mode)


def _read_unixgram(text: str, place: str, options: dict[str, str]) -> UnixgramAddress:
    mode = _take_mode(text, options)
    return UnixgramAddress(text, _check_path(text, place), mode, *_take_sizes(text, options))


def _read_fd(text: str, place: str, options: dict[str, str]) -> InheritedAddress:
    if not (place.isascii() and place.isdigit() and len(place) <= 9):
        raise SettingsError(f"address {text!r}: expected the number of a descriptor, as in fd://3")
    return InheritedAddress(text, int(place))


_READERS: dict[str, Callable[[str, str, dict[str, str]], Address]] = {
    "tcp": _read_tcp,
    "unix": _read_unix,
    "udp": _read_udp,
    "unixgram": _read_unixgram,
    "fd": _read_fd,
}


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


def _take_backlog(text: str, options: dict[str, str]) -> int:
    backlog = _take_number(text, options, "backlog", base=10, least=1)
    return DEFAULT_BACKLOG if backlog is None else backlog


def _take_mode(text: str, options: dict[str, str]) -> int:
    mode = _take_number(text, options, "mode", base=8, least=0)
    if mode is not None and mode > 0o777:
        raise SettingsError(f"address {text!r}: mode is {mode:o}, and 777 at most")
    return DEFAULT_MODE if mode is None else mode


def _take_sizes(text: str, options: dict[str, str]) -> tuple[int, int | None]:
    max_size = _take_number(text, options, "max_size", base=10, least=1)
    receive_buffer = _take_number(text, options, "receive_buffer", base=10, least=1)
    return DEFAULT_SIZE if max_size is None else max_size, receive_buffer


def _take_number(
    text: str, options: dict[str, str], name: str, *, base: int, least: int
) -> int | None:
    value = options.pop(name, None)
    if value is None:
        return None
    try:
        number = int(value, base)
    except ValueError:
        number = -1
    if not value.isascii() or not value.isdigit() or not least <= number < 1 << 31:
        kind = "an octal number" if base == 8 else f"a number from {least} up"
        raise SettingsError(f"address {text!r}: {name} is {value!r}, not {kind}")
    return number
