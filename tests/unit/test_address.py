"""How an address is written, and what is said of one that is wrong."""

import pytest

from forkserve.address import (
    DEFAULT_ADDRESS,
    DEFAULT_BACKLOG,
    LONGEST_PATH,
    Address,
    InheritedAddress,
    TCPAddress,
    UDPAddress,
    UnixAddress,
    UnixgramAddress,
    parse_address,
)
from forkserve.errors import SettingsError

GOOD: list[tuple[str, Address]] = [
    ("tcp://127.0.0.1:9000", TCPAddress("", "127.0.0.1", 9000)),
    ("127.0.0.1:9000", TCPAddress("", "127.0.0.1", 9000)),
    ("localhost:80", TCPAddress("", "localhost", 80)),
    ("tcp://example.org:0", TCPAddress("", "example.org", 0)),
    (":9000", TCPAddress("", None, 9000)),
    ("tcp://:9000", TCPAddress("", None, 9000)),
    ("tcp://[::1]:9000", TCPAddress("", "::1", 9000)),
    ("[::1]:65535", TCPAddress("", "::1", 65535)),
    (":9000?backlog=128", TCPAddress("", None, 9000, 128)),
    (":9000?backlog=1", TCPAddress("", None, 9000, 1)),
    (":9000?", TCPAddress("", None, 9000)),
    ("unix:///run/x.sock", UnixAddress("", "/run/x.sock")),
    ("unix://x.sock", UnixAddress("", "x.sock")),
    ("unix:///run/a:b.sock", UnixAddress("", "/run/a:b.sock")),
    ("unix:///run/x?mode=0600", UnixAddress("", "/run/x", mode=0o600)),
    ("unix:///run/x?mode=666", UnixAddress("", "/run/x", mode=0o666)),
    ("unix:///run/x?mode=0", UnixAddress("", "/run/x", mode=0)),
    ("unix:///run/x?mode=0777&backlog=5", UnixAddress("", "/run/x", 5, 0o777)),
    ("udp://:514", UDPAddress("", None, 514)),
    ("udp://[::1]:53?max_size=512", UDPAddress("", "::1", 53, 512)),
    ("udp://:53?receive_buffer=1000000", UDPAddress("", None, 53, receive_buffer=1000000)),
    ("unixgram:///run/x", UnixgramAddress("", "/run/x")),
    ("unixgram:///run/x?mode=622&max_size=9", UnixgramAddress("", "/run/x", 0o622, 9)),
    ("fd://3", InheritedAddress("", 3)),
    ("unix:///" + "x" * (LONGEST_PATH - 1), UnixAddress("", "/" + "x" * (LONGEST_PATH - 1))),
]

WRONG = [
    ("", "HOST:PORT"),
    ("localhost", "HOST:PORT"),
    ("localhost:", "HOST:PORT"),
    ("localhost:http", "port from 0 to 65535"),
    ("localhost:-1", "port from 0 to 65535"),
    ("localhost:65536", "port from 0 to 65535"),
    ("localhost: 80", "port from 0 to 65535"),
    ("localhost:\N{ARABIC-INDIC DIGIT ONE}", "port from 0 to 65535"),
    ("::1:9000", "brackets"),
    ("tcp://[::1:9000", "brackets"),
    ("[::1]", "brackets|HOST:PORT"),
    ("http://localhost:80", "unknown scheme 'http'"),
    ("TCP://localhost:80", "unknown scheme 'TCP'"),
    ("unix://", "expected a path"),
    ("unix:///a\0b", "expected a path"),
    ("unix:///" + "x" * LONGEST_PATH, "108 bytes.* 107 at most"),
    ("unix:///" + "\N{EURO SIGN}" * 36, "109 bytes.* 107 at most"),
    (":80?backlog", "NAME=VALUE"),
    (":80?backlog=1&", "NAME=VALUE"),
    (":80?backlog=", "backlog is '', not a number from 1 up"),
    (":80?backlog=0", "backlog is '0', not a number from 1 up"),
    (":80?backlog=-1", "backlog is '-1', not a number from 1 up"),
    (":80?backlog=1_0", "backlog is '1_0'"),
    (":80?backlog=many", "backlog is 'many'"),
    (":80?mode=600", "unknown option 'mode'"),
    (":80?reuse=1", "unknown option 'reuse'"),
    ("unix:///x?mode=888", "mode is '888', not an octal number"),
    ("unix:///x?mode=0o600", "mode is '0o600', not an octal number"),
    ("unix:///x?mode=1777", "mode is 1777, and 777 at most"),
    ("unix:///x?owner=me", "unknown option 'owner'"),
    ("udp://localhost", "expected HOST:PORT"),
    ("udp://:53?backlog=1", "unknown option 'backlog'"),
    ("udp://:53?max_size=0", "max_size is '0', not a number from 1 up"),
    ("udp://:53?receive_buffer=much", "receive_buffer is 'much', not a number from 1 up"),
    ("udp:53", "expected udp://HOST:PORT"),
    ("unixgram://", "expected a path"),
    ("unixgram:/run/x", "expected unixgram:///PATH"),
    ("unixgram:///x?mode=1777", "mode is 1777, and 777 at most"),
    ("fd://", "expected the number of a descriptor"),
    ("fd://stdin", "expected the number of a descriptor"),
    ("fd://3?backlog=1", "unknown option 'backlog'"),
    ("fd:3", "expected fd://NUMBER"),
    ("tls://localhost:443", "tls addresses are not supported yet"),
    ("systemd:", "systemd addresses are not supported yet"),
    ("systemd:web", "systemd addresses are not supported yet"),
]


@pytest.mark.parametrize(("text", "meant"), GOOD, ids=[text[:40] for text, _ in GOOD])
def test_what_an_address_means(text: str, meant: Address) -> None:
    """Every form that is documented is understood, and keeps the text it came from."""
    assert parse_address(text) == meant._replace(text=text)


@pytest.mark.parametrize(("text", "problem"), WRONG, ids=[text[:40] for text, _ in WRONG])
def test_what_is_wrong_with_an_address(text: str, problem: str) -> None:
    """An error names the address and says what is wrong with it, in one line."""
    with pytest.raises(SettingsError, match=problem) as caught:
        parse_address(text)
    assert repr(text) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("127.0.0.1:80", "tcp://127.0.0.1:80"),
        ("[::1]:80?backlog=3", "tcp://[::1]:80"),
        (":80", "tcp://[::]:80"),
        ("unix:///run/x?mode=600", "unix:///run/x"),
        ("udp://:53?max_size=512", "udp://[::]:53"),
        ("unixgram:///run/x", "unixgram:///run/x"),
        ("fd://03", "fd://3"),
    ],
)
def test_an_address_is_shown_in_its_full_form(text: str, shown: str) -> None:
    """As text an address has its scheme, and an IPv6 host its brackets, but no options."""
    assert str(parse_address(text)) == shown


def test_the_default_address_is_loopback_only() -> None:
    """What is served without an address is not shown to the network."""
    assert parse_address(DEFAULT_ADDRESS) == TCPAddress(
        DEFAULT_ADDRESS, "127.0.0.1", 9000, DEFAULT_BACKLOG
    )


def test_a_port_may_not_be_endless() -> None:
    """A port of any number of digits is told to be wrong like any other."""
    with pytest.raises(SettingsError, match="port from 0 to 65535"):
        parse_address("localhost:" + "9" * 5000)


def test_a_backlog_fits_listen() -> None:
    """A backlog that listen(2) cannot take is refused when it is read."""
    with pytest.raises(SettingsError, match="backlog"):
        parse_address(":80?backlog=99999999999")
