"""WSGI applications run behind wsgiref's handler, and are told the truth about the mode."""

import random
import re
import subprocess
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.support.clients import ask, connect, path_of, port_of, read_exactly, reset
from tests.support.requirements import requires
from tests.support.server import ROOT, TCP, Server, run_command, running

APP = f"{ROOT}/examples/wsgi.py:App"
MEBIBYTE = random.Random("both ways").randbytes(1 << 20)
MODES = [
    pytest.param(("iterative",), False, False, id="iterative"),
    pytest.param(("thread",), True, False, id="thread"),
    pytest.param(("process",), False, True, id="process"),
    pytest.param(("process", "--spare", "2"), False, True, id="process-spare"),
    pytest.param(("prefork", "-w", "2"), False, True, id="prefork"),
    pytest.param(("prefork", "-w", "2", "--threads", "4"), True, True, id="prefork-threads"),
]
FLAGS = [pytest.param(mode.values[0], id=mode.id) for mode in MODES]

APPS = """
import itertools
import os
from wsgiref.validate import validator

import wsgi

checked = validator(wsgi.demo)

def begin(start_response, status="200 OK"):
    return start_response(status, [("Content-Type", "text/plain")])

class Blocks:
    def __init__(self, blocks, errors):
        self.blocks, self.errors = blocks, errors
    def __iter__(self):
        yield from self.blocks
    def close(self):
        self.errors.write("closed\\n")
        self.errors.flush()

def place(environ, start_response):
    begin(start_response)
    return [f"{environ['SERVER_NAME']} {environ['SERVER_PORT']}".encode()]

def blocks(environ, start_response):
    begin(start_response)
    return Blocks([b"one ", b"two ", b"three"], environ["wsgi.errors"])

def endless(environ, start_response):
    begin(start_response)
    return Blocks(itertools.repeat(b"x" * 1000), environ["wsgi.errors"])

def breaks_off(environ, start_response):
    begin(start_response)
    return Blocks((b"x" if n < 3 else 1 // 0 for n in range(5)), environ["wsgi.errors"])

def writes(environ, start_response):
    begin(start_response)(b"written ")
    return (b"and", b" returned")

def raises(environ, start_response):
    if environ["PATH_INFO"] == "/pid":
        begin(start_response)
        return [str(os.getpid()).encode()]
    raise {"/exit": SystemExit(3)}.get(environ["PATH_INFO"], LookupError("no such thing"))

def deaf(environ, start_response):
    begin(start_response, "404 Not Here")
    return [b"did not listen"]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make a folder with the applications of these tests."""
    (tmp_path / "apps.py").write_text(APPS)
    return tmp_path


def serving(
    application: str, folder: Path, *flags: str, address: str = TCP, expect: str | None = None
) -> AbstractContextManager[Server]:
    """Serve one of the applications in the folder."""
    env = {"WSGI_APP": f"apps:{application}"}
    return running(APP, *flags, address=address, expect=expect, env=env, cwd=folder)


def where(transport: str, folder: Path) -> str:
    """Return the address to serve."""
    return TCP if transport == "tcp" else f"unix://{folder}/wsgi.sock"


def curl(server: Server, path: str, *options: str, stdin: bytes = b"") -> bytes:
    """Return what curl printed; it must succeed."""
    requires("curl")
    through: tuple[str, ...] = (server.address.replace("tcp:", "http:") + path,)
    if server.address.startswith("unix:"):
        through = ("--unix-socket", path_of(server.address), f"http://localhost{path}")
    ran = subprocess.run(
        ["curl", "-sS", *options, *through],
        input=stdin,
        capture_output=True,
        timeout=20,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, b""), ran
    return ran.stdout


def request(address: str, method: str, path: str, *headers: str, body: bytes = b"") -> str:
    """Return the status line's code and reason, a blank, and the body of one answer."""
    lines = (f"{method} {path} HTTP/1.1", "Host: localhost", *headers, "", "")
    head, _, text = ask(address, "\r\n".join(lines).encode() + body).partition(b"\r\n\r\n")
    return f"{head.splitlines()[0].decode().partition(' ')[2]}: {text.decode('latin-1')}"


@pytest.mark.parametrize(
    ("flags", "multithread", "multiprocess"),
    [
        *MODES,
        pytest.param(("prefork", "-w", "1"), False, False, id="one-worker"),
        pytest.param(("thread", "-w", "2"), True, True, id="two-workers-with-threads"),
    ],
)
def test_the_application_is_told_what_may_run_beside_it(
    flags: tuple[str, ...], multithread: bool, multiprocess: bool
) -> None:
    """Threads of its own process, and other processes, as the mode has them."""
    with running(APP, *flags) as server:
        shown = request(server.address, "GET", "/")
    assert f"wsgi.multithread: {multithread}\nwsgi.multiprocess: {multiprocess}\n" in shown


@pytest.mark.parametrize("transport", ["tcp", "unix"])
@pytest.mark.parametrize("flags", FLAGS)
def test_curl_gets_back_what_it_posts(
    flags: tuple[str, ...], transport: str, tmp_path: Path
) -> None:
    """A mebibyte goes both ways to the last byte, after the request that the demo shows."""
    with running(APP, *flags, address=where(transport, tmp_path)) as server:
        post = ("--data-binary", "@-", "-H", "Expect:")
        head, _, body = curl(server, "/a%20b?c=d", *post, stdin=MEBIBYTE).partition(b"\n\n")
    peer = "127.0.0.1" if transport == "tcp" else ""
    assert head.startswith(f"REQUEST_METHOD: POST\nPATH_INFO: /a b\nREMOTE_ADDR: {peer}\n".encode())
    assert body == MEBIBYTE


@pytest.mark.parametrize("transport", ["tcp", "unix"])
def test_head_gives_the_headers_of_get_and_nothing_else(transport: str, tmp_path: Path) -> None:
    """The length is that of the page, which does not come."""
    with running(APP, "thread", address=where(transport, tmp_path)) as server:
        length = len(request(server.address, "HEAD", "/").partition(": ")[2])
        headers = curl(server, "/", "--head").decode()
        page = curl(server, "/", "-X", "HEAD", "--max-time", "5", "--ignore-content-length")
    assert (length, page) == (0, b"")
    assert headers.startswith("HTTP/1.0 200 OK\r\n")
    assert re.search(r"^Content-Length: 1\d\d\r$", headers, re.MULTILINE)


@pytest.mark.parametrize("transport", ["tcp", "unix"])
@pytest.mark.parametrize("flags", FLAGS)
def test_the_standard_librarys_validator_has_no_complaint(
    flags: tuple[str, ...], transport: str, folder: Path
) -> None:
    """Neither about the environment nor about how the application is called and closed."""
    with serving("checked", folder, *flags, address=where(transport, folder)) as server:
        assert request(server.address, "GET", "/?x=y").startswith("200 OK: REQUEST_METHOD: GET\n")
        assert request(server.address, "HEAD", "/") == "200 OK: "
        posted = request(server.address, "POST", "/", "Content-Length: 5", body=b"hello")
        assert posted.endswith("\n\nhello")
    assert not re.search("Error|Warning|without being closed", server.stderr_so_far())


def test_the_application_is_told_where_it_is_served(folder: Path) -> None:
    """As the host and the port, which a Unix socket does not have."""
    with serving("place", folder, "thread") as server:
        port = port_of(server.address)
        assert request(server.address, "GET", "/") == f"200 OK: 127.0.0.1 {port}"
    with serving("place", folder, "thread", address=where("unix", folder)) as server:
        assert request(server.address, "GET", "/") == "200 OK: localhost 0"


@pytest.mark.parametrize("app", ["blocks", "writes"])
def test_a_page_of_unknown_length_ends_with_the_connection(app: str, folder: Path) -> None:
    """Whether the application gives blocks or writes them itself."""
    page = {"blocks": "one two three", "writes": "written and returned"}[app]
    with serving(app, folder, "thread") as server:
        assert request(server.address, "GET", "/") == f"200 OK: {page}"
        assert curl(server, "/").decode() == page


@pytest.mark.parametrize("flags", FLAGS)
def test_an_application_that_raises_gives_500(flags: tuple[str, ...], folder: Path) -> None:
    """Each such request is answered so, also where it wants to exit."""
    with serving("raises", folder, *flags, expect="LookupError|Exit") as server:
        failed = "500 Internal Server Error: A server error occurred."
        assert request(server.address, "GET", "/").startswith(failed)
        assert request(server.address, "GET", "/exit").startswith(failed)
        assert request(server.address, "GET", "/pid").startswith("200 OK: ")


def test_the_worker_outlives_an_application_that_raises(folder: Path) -> None:
    """The same process serves the next request."""
    expect = "LookupError|Exit"
    with serving("raises", folder, "prefork", "-w", "1", expect=expect) as server:
        before = request(server.address, "GET", "/pid")
        assert request(server.address, "GET", "/").startswith("500 ")
        assert request(server.address, "GET", "/exit").startswith("500 ")
        assert request(server.address, "GET", "/pid") == before


def test_the_iterable_is_closed_at_its_end(folder: Path) -> None:
    """Once, after the last block."""
    with serving("blocks", folder, "thread") as server:
        assert request(server.address, "GET", "/").startswith("200 OK")
        server.wait_for_line(r"^closed$")
    assert server.stderr_so_far().count("closed\n") == 1


@pytest.mark.parametrize("flags", FLAGS)
def test_an_endless_iterable_is_closed_when_the_client_leaves(
    flags: tuple[str, ...], folder: Path
) -> None:
    """And the next client is served."""
    with serving("endless", folder, *flags) as server:
        leave_in_the_middle(server)
        server.wait_for_line(r"^closed$")
        leave_in_the_middle(server)


def leave_in_the_middle(server: Server) -> None:
    """Read the beginning of an endless answer, and reset the connection."""
    client = connect(server.address)
    client.sendall(b"GET / HTTP/1.0\r\n\r\n")
    assert read_exactly(client, 10_000).startswith(b"HTTP/1.0 200 OK\r\n")
    reset(client)


def test_the_iterable_is_closed_when_it_raises(folder: Path) -> None:
    """The client sees an answer that breaks off."""
    with serving("breaks_off", folder, "thread", expect="ZeroDivision") as server:
        assert request(server.address, "GET", "/") == "200 OK: xxx"
        server.wait_for_line(r"^closed$")


def test_an_answer_arrives_though_the_body_was_not_read(folder: Path) -> None:
    """An application may answer without listening; the client need not notice."""
    with serving("deaf", folder, "thread") as server:
        options = ("Content-Length: 100000",)
        answer = request(server.address, "POST", "/", *options, body=MEBIBYTE[:100_000])
    assert answer == "404 Not Here: did not listen"


def test_a_body_of_no_length_is_refused() -> None:
    """Chunks are not for HTTP/1.0: the client is told instead of ignored."""
    with running(APP, "thread") as server:
        status = ("-o", "-", "-w", "%{http_code}", "-H", "Transfer-Encoding: chunked")
        assert curl(server, "/", *status, "-d", "hello").endswith(b"411")
        assert request(server.address, "POST", "/", "Content-Length: -1").startswith("400 ")
        assert request(server.address, "POST", "/", "Content-Length: ten").startswith("400 ")


def test_an_application_that_is_not_there_is_the_targets_fault() -> None:
    """The server does not start, and says which name is missing."""
    ran = run_command("run", APP, "-b", TCP, env={"WSGI_APP": "nowhere:application"})
    assert ran.returncode == 4
    assert "No module named 'nowhere'" in ran.stderr


@pytest.mark.heavy
@pytest.mark.parametrize("flags", FLAGS)
def test_wrk_meets_no_error(flags: tuple[str, ...]) -> None:
    """20 connections for a second end without a socket error or a bad status."""
    requires("wrk")
    with running(APP, *flags) as server:
        url = server.address.replace("tcp://", "http://")
        ran = subprocess.run(
            ["wrk", "-t2", "-c20", "-d1s", "--timeout", "10s", url],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
    assert "Socket errors" not in ran.stdout, ran.stdout
    assert "Non-2xx" not in ran.stdout, ran.stdout
    assert re.search(r"[1-9]\d+ requests in", ran.stdout), ran.stdout
