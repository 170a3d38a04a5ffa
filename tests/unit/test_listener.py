"""How listening sockets are opened, revived, and closed to new clients."""

import errno
import os
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from forkserve.connection import Connection
from forkserve.errors import ListenError
from forkserve.listener import Listener
from forkserve.process.fork import fork
from tests.support.requirements import requires_ipv6, requires_root
from tests.unit.fakes import open_streams

Open = Callable[..., list[Listener]]


@pytest.fixture
def listen() -> Iterator[Open]:
    """Return what opens listeners, which are closed in the end."""
    opened: list[Listener] = []

    def listen(*texts: object) -> list[Listener]:
        listeners = open_streams(*texts)
        opened.extend(listeners)
        return listeners

    yield listen
    for listener in opened:
        listener.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where a Unix socket may be."""
    return tmp_path / "x.sock"


def mode_of(path: Path) -> int:
    """Return a file's permissions."""
    return stat.S_IMODE(path.lstat().st_mode)


def connect(listener: Listener) -> socket.socket:
    """Return a client of a TCP listener."""
    return socket.create_connection(listener.socket.getsockname()[:2], 5)


def connect_unix(path: Path) -> socket.socket:
    """Return a client of a Unix listener."""
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(5)
    try:
        client.connect(str(path))
    except OSError:
        client.close()
        raise
    return client


def taken(listener: Listener) -> Connection:
    """Return the connection that is in the queue."""
    connection = listener.accept()
    assert connection is not None
    return connection


# -- TCP


def test_a_port_of_the_kernels_choice(listen: Open) -> None:
    """Port 0 is a free port, and the listener is shown with it."""
    (listener,) = listen("127.0.0.1:0")
    host, port = listener.socket.getsockname()
    assert port != 0
    assert str(listener) == f"tcp://{host}:{port}"


def test_one_port_for_all_addresses_of_a_name(
    listen: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name of several addresses is bound on all, and port 0 is one port."""
    requires_ipv6()
    places = [(socket.AF_INET, ("127.0.0.1", 0)), (socket.AF_INET6, ("::1", 0, 0, 0))]
    found = [(family, socket.SOCK_STREAM, 6, "", place) for family, place in places]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **options: [*found, found[0]])
    first, second = listen("both:0")
    port = first.socket.getsockname()[1]
    assert [str(first), str(second)] == [f"tcp://127.0.0.1:{port}", f"tcp://[::1]:{port}"]


def test_no_host_is_one_dual_stack_socket(listen: Open) -> None:
    """An IPv4 peer comes to the same socket as an IPv6 one, and is shown as plain IPv4."""
    requires_ipv6()
    (listener,) = listen(":0")
    port = listener.socket.getsockname()[1]
    for host in ("127.0.0.1", "::1"):
        with socket.create_connection((host, port), 5), closing(taken(listener)) as connection:
            assert connection.peer[0] == host
            assert connection.local[:2] == (host, port)


def test_without_ipv6_no_host_is_ipv4(listen: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel without IPv6 still serves every address it has."""
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    (listener,) = listen(":0")
    assert listener.socket.getsockname()[0] == "0.0.0.0"


def test_an_empty_queue(listen: Open) -> None:
    """accept() does not wait."""
    assert listen("127.0.0.1:0")[0].accept() is None


def test_a_port_in_use(listen: Open) -> None:
    """The error names the address as it was written, and the reason."""
    (listener,) = listen("127.0.0.1:0")
    text = f"127.0.0.1:{listener.socket.getsockname()[1]}"
    with pytest.raises(ListenError, match=f"cannot listen on {text}: Address already in use"):
        listen(text)


def test_a_port_that_was_just_closed(listen: Open) -> None:
    """Connections of a server that is gone do not keep a new one from its port."""
    (listener,) = listen("127.0.0.1:0")
    text = f"127.0.0.1:{listener.socket.getsockname()[1]}"
    with connect(listener):
        taken(listener).close()
        listener.close()
        assert len(listen(text)) == 1


def test_all_addresses_or_none(listen: Open, path: Path) -> None:
    """If one address fails the others are given back, files included."""
    (listener,) = listen("127.0.0.1:0")
    port = listener.socket.getsockname()[1]
    with pytest.raises(ListenError):
        listen("127.0.0.1:0", f"unix://{path}", f"127.0.0.1:{port}")
    assert not path.exists()


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
def test_an_address_that_is_not_ours(host: str, listen: Open) -> None:
    """An address of nobody, or of somebody else, is one clear error."""
    with pytest.raises(ListenError, match=f"^cannot listen on {host}:0: "):
        listen(f"{host}:0")


@pytest.mark.parametrize("host", ["a..b", "a" * 64])
def test_a_name_that_cannot_be_one(host: str, listen: Open) -> None:
    """A host that no resolver takes is one clear error like any other."""
    with pytest.raises(ListenError, match="cannot listen on"):
        listen(f"{host}:0")


# -- Unix: mode


@pytest.mark.parametrize(
    ("query", "mode"), [("", 0o660), ("?mode=600", 0o600), ("?mode=666", 0o666), ("?mode=0", 0)]
)
@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_the_mode_of_a_socket_file(
    umask: int, query: str, mode: int, listen: Open, path: Path
) -> None:
    """A socket file has the mode that was asked for, whatever the umask."""
    before = os.umask(umask)
    try:
        listen(f"unix://{path}{query}")
    finally:
        os.umask(before)
    assert mode_of(path) == mode


def test_a_socket_file_is_never_wider(
    listen: Open, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It appears under its name complete: with its mode, and listening (F110)."""
    seen = []
    rename = os.rename

    def look(old: str, new: str) -> None:
        seen.append((os.path.exists(new), mode_of(Path(old))))
        rename(old, new)
        connect_unix(path).close()

    monkeypatch.setattr(os, "rename", look)
    listen(f"unix://{path}?mode=600")
    assert seen == [(False, 0o600)]


def test_nothing_lies_beside_the_socket_file(listen: Open, path: Path) -> None:
    """What it was made under is gone."""
    listen(f"unix://{path}")
    assert os.listdir(path.parent) == ["x.sock"]


def test_a_relative_path(listen: Open, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path may be relative to the current folder."""
    monkeypatch.chdir(path.parent)
    (listener,) = listen("unix://x.sock")
    assert path.is_socket()
    assert str(listener) == "unix://x.sock"


@pytest.mark.parametrize(
    "length",
    [
        100,
        103,
        104,
        107,
    ],
)
def test_a_path_of_any_length_that_is_allowed(length: int, listen: Open, tmp_path: Path) -> None:
    """What parse_address lets through can be listened on."""
    path = tmp_path / ("x" * (length - len(str(tmp_path)) - 1))
    listen(f"unix://{path}")
    connect_unix(path).close()


# -- Unix: stale, live, ours


def test_a_stale_socket_is_replaced(listen: Open, path: Path) -> None:
    """A file whose server is gone is in nobody's way."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    listen(f"unix://{path}")
    connect_unix(path).close()


def test_a_live_socket_is_never_taken(listen: Open, path: Path) -> None:
    """A second server on the path is refused, and the first one goes on."""
    (listener,) = listen(f"unix://{path}")
    with pytest.raises(ListenError, match=f"unix://{path}: another server is listening there"):
        listen(f"unix://{path}")
    connect_unix(path).close()
    taken(listener).close()


def test_a_live_socket_with_a_full_queue_is_never_taken(listen: Open, path: Path) -> None:
    """A server that is busy is a server."""
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as client:
        busy.bind(str(path))
        busy.listen(0)
        client.connect(str(path))
        with pytest.raises(ListenError, match="another server is listening there"):
            listen(f"unix://{path}")
    assert path.is_socket()
    path.unlink()


def test_what_is_no_socket_is_left_alone(listen: Open, path: Path) -> None:
    """No file of the user's is ever removed."""
    path.write_text("precious")
    with pytest.raises(ListenError, match="the path exists and is not a socket"):
        listen(f"unix://{path}")
    assert path.read_text() == "precious"
    assert os.listdir(path.parent) == ["x.sock"]


def test_a_link_is_no_socket(listen: Open, path: Path) -> None:
    """Not even if it points to one that is stale."""
    path.symlink_to(path.parent / "elsewhere")
    with pytest.raises(ListenError, match="is not a socket"):
        listen(f"unix://{path}")


@pytest.mark.parametrize(
    ("name", "reason"),
    [("none/x.sock", "No such file or directory"), ("file/x.sock", "Not a directory")],
)
def test_no_folder(name: str, reason: str, listen: Open, tmp_path: Path) -> None:
    """A folder that is missing is one clear error."""
    (tmp_path / "file").touch()
    with pytest.raises(ListenError, match=f"{name}: {reason}"):
        listen(f"unix://{tmp_path}/{name}")


def test_closing_removes_the_file(listen: Open, path: Path) -> None:
    """The owner of a Unix socket takes its file away, once."""
    (listener,) = listen(f"unix://{path}")
    listener.close()
    assert not path.exists()
    listener.close()


def test_somebody_elses_file_stays(listen: Open, path: Path) -> None:
    """A file of another inode at the path is not ours to remove (F111)."""
    (listener,) = listen(f"unix://{path}")
    path.unlink()
    path.write_text("theirs")
    listener.quiesce()
    listener.close()
    assert path.read_text() == "theirs"


def test_a_child_removes_nothing(listen: Open, path: Path) -> None:
    """Only the process that opened the socket owns its file (F83)."""
    (listener,) = listen(f"unix://{path}")

    def child() -> int:
        listener.close()
        return 0

    os.waitpid(fork(child, lambda: None), 0)
    assert path.is_socket()


# -- quiesce


def test_a_quiet_unix_listener(listen: Open, path: Path) -> None:
    """The file is gone, new clients are refused, those in the queue are served."""
    (listener,) = listen(f"unix://{path}")
    with connect_unix(path) as client:
        listener.quiesce()
        assert not path.exists()
        with closing(taken(listener)) as connection:
            connection.send_all(b"served")
            assert client.recv(9) == b"served"


def test_a_quiet_tcp_listener(listen: Open) -> None:
    """With the filter a new client is neither let in nor refused, those in the queue are served."""
    requires_root()
    (listener,) = listen("127.0.0.1:0")
    with connect(listener) as early, socket.socket() as late:
        listener.quiesce()
        late.setblocking(False)
        assert late.connect_ex(listener.socket.getsockname()) == errno.EINPROGRESS
        with closing(taken(listener)) as connection:
            connection.send_all(b"served")
            assert early.recv(9) == b"served"
        assert listener.accept() is None


def test_a_quiet_tcp_listener_without_the_filter(
    listen: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the right to filter the queue is shrunk, and who is in it is served."""

    def not_permitted(program: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    (listener,) = listen("127.0.0.1:0")
    monkeypatch.setattr(listener, "_attach_filter", not_permitted)
    clients = [connect(listener) for _ in range(3)]
    listener.quiesce()
    assert listener.is_listening()
    for client in clients:
        taken(listener).close()
        client.close()
    assert listener.accept() is None


def test_quiescing_twice(listen: Open, path: Path) -> None:
    """It may be asked for again, also when the listener is closed."""
    for listener in listen("127.0.0.1:0", f"unix://{path}"):
        listener.quiesce()
        listener.quiesce()
        listener.close()
        listener.quiesce()


# -- revive


def test_a_tcp_listener_is_revived(listen: Open) -> None:
    """A listener that a child shut down listens again, on the same port."""
    (listener,) = listen("127.0.0.1:0")
    place = listener.socket.getsockname()
    listener.socket.shutdown(socket.SHUT_RD)
    assert not listener.is_listening()
    assert listener.revive()
    assert listener.is_listening()
    assert listener.socket.getsockname() == place
    with connect(listener):
        taken(listener).close()


def test_a_unix_listener_is_revived(listen: Open, path: Path) -> None:
    """One that a child shut down has a successor at its path."""
    (listener,) = listen(f"unix://{path}")
    listener.socket.shutdown(socket.SHUT_RD)
    assert listener.revive()
    with closing(socket.socket(socket.AF_UNIX)) as client:
        assert client.connect_ex(str(path)) == 0


def test_a_closed_listener_is_not_listening(listen: Open) -> None:
    """Asking costs nothing and raises nothing."""
    (listener,) = listen("127.0.0.1:0")
    listener.close()
    assert not listener.is_listening()
    assert not listener.revive()
