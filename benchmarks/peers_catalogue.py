"""Which servers are compared, how each is started, and how it says that it is ready."""

import contextlib
import errno
import importlib.util
import os
import random
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from benchmarks.servers import CHECKOUT, forkserve, peer
from forkserve.bench.server import find_address, forkserve_command

APPLICATION = "benchmarks.peers_wsgi:application"
THREADS = "4"  # of the HTTP servers that have a pool of them
CLIENTS = 32  # connections at a time
OUR_THREADS = "64"  # at most; started as they are needed
ANY_PORT = "127.0.0.1:0"
FIRST_PORT = 10_000
FROM_AFAR = {"PYTHONPATH": str(CHECKOUT)}  # for servers that run in another folder
PERL = str(CHECKOUT / "benchmarks/peers_net_server.pl")


@dataclass(frozen=True, slots=True)
class Need:
    """Something that must be installed, and how that is done."""

    name: str
    remedy: str
    is_there: Callable[[], bool]


@dataclass(frozen=True, slots=True)
class Peer:
    """One server of a comparison."""

    name: str
    command: list[str]
    need: Need | None = None
    find_ready: Callable[[str], str | None] = find_address
    environment: Mapping[str, str] = field(default_factory=dict)
    folder: Path = CHECKOUT

    @property
    def is_ours(self) -> bool:
        """Whether a fault of it is a fault of forkserve."""
        return self.name.startswith("forkserve ")


def package(name: str) -> Need:
    """Return the need of a Python package."""
    is_there = importlib.util.find_spec
    return Need(name, f"pip install {name}", lambda: is_there(name) is not None)


def tool(name: str, debian: str) -> Need:
    """Return the need of a program of Debian's."""
    return Need(name, f"apt-get install {debian}", lambda: shutil.which(name) is not None)


@cache
def has_net_server() -> bool:
    """Tell whether Perl and its Net::Server are installed."""
    if not shutil.which("perl"):
        return False
    done = subprocess.run(["perl", "-MNet::Server", "-e1"], capture_output=True, check=False)
    return done.returncode == 0


NET_SERVER = Need("Net::Server (Perl)", "apt-get install libnet-server-perl", has_net_server)
WRK = tool("wrk", "wrk")
REDIS_BENCHMARK = tool("redis-benchmark", "redis-tools")
REDIS_SERVER = tool("redis-server", "redis-server")
GUNICORN, UVLOOP = package("gunicorn"), package("uvloop")
GEVENT, TWISTED = package("gevent"), package("twisted")
WAITRESS, CHEROOT, GRANIAN = package("waitress"), package("cheroot"), package("granian")


def beside_python(name: str) -> str:
    """Return the path of a program that pip has installed, "" if it has not."""
    folders = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return shutil.which(name, path=folders) or ""


UWSGI = Need("uwsgi", "pip install uwsgi", lambda: bool(beside_python("uwsgi")))


def free_port() -> int:
    """Return a port that is free, for servers that do not tell which they took.

    No client gets it meanwhile: it is below those that the kernel gives to clients (ip(7)).
    """
    firsts = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    ports = range(FIRST_PORT, int(firsts[0]))
    for port in random.sample(ports, len(ports)):
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port
    raise OSError(errno.EADDRINUSE, "no port is free that is no client's")


def ready_after(line: str, address: str) -> Callable[[str], str | None]:
    """Return what finds a line of a server whose port was chosen for it."""
    return lambda said: address if line in said else None


def ready_after_address(pattern: str, line: str) -> Callable[[str], str | None]:
    """Return what finds a server's port, and the line that says it serves there."""

    def find(said: str) -> str | None:
        found = re.search(pattern, said)
        return f"tcp://127.0.0.1:{found[1]}" if found and line in said else None

    return find


def short_lived(shape: str, folder: Path) -> Iterator[Peer]:
    """Return the servers for short connections of a shape: peer or server closes first."""
    handler = "UntilEnd" if shape == "peer" else "Once"
    yield Peer("forkserve iterative", forkserve(handler, "iterative"))
    yield Peer("forkserve thread", forkserve(handler, "thread"))
    yield Peer("forkserve thread, Unix socket", on_unix(handler, f"{folder}/ours-{shape}"))
    yield Peer("forkserve process", forkserve(handler, "process"))
    reuse = ("--spare", "4", "--connections-per-child", "100")
    yield Peer("forkserve process, 4 spares, 100 each", forkserve(handler, "process", *reuse))
    yield Peer("forkserve prefork, 1 worker", forkserve(handler, "prefork", "-w", "1"))
    yield Peer("forkserve prefork, 4 workers", forkserve(handler, "prefork", "-w", "4"))
    yield Peer("socketserver TCPServer", peer("peers_stdlib", "TCPServer", shape))
    yield Peer("TCPServer forked by hand, 4", peer("peers_stdlib", "PreforkTCPServer", shape, "4"))
    yield from one_each(shape, folder)
    yield Peer("Net::Server PreForkSimple, 4", perl("PreForkSimple", shape, 4), NET_SERVER)
    yield Peer("Net::Server PreFork", ["perl", PERL, "PreFork", shape], NET_SERVER)


def kept(folder: Path) -> Iterator[Peer]:
    """Return the servers that serve kept connections, all at the same time."""
    threads = ("--threads", OUR_THREADS)
    yield Peer("forkserve thread", forkserve("UntilEnd", "thread"))
    yield Peer("forkserve thread, Unix socket", on_unix("UntilEnd", f"{folder}/ours-kept"))
    yield Peer("forkserve process", forkserve("UntilEnd", "process"))
    for workers in ("1", "4"):
        name = f"forkserve prefork, {workers} x {OUR_THREADS} threads"
        yield Peer(name, forkserve("UntilEnd", "prefork", "-w", workers, *threads))
    yield from one_each("peer", folder)
    processes = perl("PreForkSimple", "peer", CLIENTS)
    yield Peer(f"Net::Server PreForkSimple, {CLIENTS}", processes, NET_SERVER)


def one_each(shape: str, folder: Path) -> Iterator[Peer]:
    """Return the peers that serve any number of connections at a time."""
    yield Peer("ThreadingTCPServer", peer("peers_stdlib", "ThreadingTCPServer", shape))
    yield Peer("ForkingTCPServer", peer("peers_stdlib", "ForkingTCPServer", shape))
    path = f"{folder}/stdlib-{shape}"
    unix = peer("peers_stdlib", "ThreadingUnixStreamServer", shape, path)
    yield Peer("ThreadingUnixStreamServer, Unix socket", unix)
    yield Peer("asyncio protocol", peer("peers_asyncio", "protocols", shape))
    yield Peer("asyncio streams", peer("peers_asyncio", "streams", shape))
    yield Peer("uvloop protocol", peer("peers_uvloop", shape), UVLOOP)
    yield Peer("gevent StreamServer", peer("peers_gevent", shape), GEVENT)
    yield Peer("Twisted protocol", peer("peers_twisted", shape), TWISTED)
    yield Peer("Net::Server Fork", ["perl", PERL, "Fork", shape], NET_SERVER)


def on_unix(handler: str, path: str) -> list[str]:
    """Return the command of our threads on a Unix socket."""
    return forkserve_command(f"benchmarks/handlers.py:{handler}", "thread", "-b", f"unix://{path}")


def perl(kind: str, shape: str, servers: int) -> list[str]:
    """Return the command of a fixed number of Perl processes."""
    return ["perl", PERL, kind, shape, "max_servers", str(servers)]


def http_closing(folder: Path) -> Iterator[Peer]:
    """Return the HTTP servers as they answer one request a connection."""
    yield from http_both()
    yield ours_http("wsgi.py, prefork, 1 worker", "App", folder, "prefork", "-w", "1")
    yield ours_http("wsgi.py, thread", "App", folder, "thread")
    yield ours_http("files.py, prefork, 1 worker", "Files", folder, "prefork", "-w", "1")
    yield ours_http("files.py, thread", "Files", folder, "thread")
    yield Peer("wsgiref WSGIServer, same handler", peer("peers_wsgi", "wsgiref"))
    yield stdlib_http("http.server HTTPServer, same files", "HTTPServer", "Files", folder)
    yield stdlib_http("ThreadingHTTPServer, same files", "ThreadingHTTPServer", "Files", folder)
    yield Peer("gunicorn sync", gunicorn("sync"), GUNICORN, find_gunicorn)
    # Without that header it closes unannounced, which wrk counts as errors.
    closing = uwsgi("--http-socket", ANY_PORT, "--add-header", "Connection: close")
    yield Peer("uWSGI", closing, UWSGI, find_uwsgi)


def http_keeping(folder: Path) -> Iterator[Peer]:
    """Return the HTTP servers that keep connections, and ours told to."""
    yield from http_both()
    yield ours_http("files.py, thread, HTTP/1.1", "KeptFiles", folder, "thread")
    name = "ThreadingHTTPServer, same files, HTTP/1.1"
    yield stdlib_http(name, "ThreadingHTTPServer", "KeptFiles", folder)
    port = free_port()
    options = ("--http-keepalive", "--add-header", "Connection: Keep-Alive")
    router = uwsgi("--http", f"127.0.0.1:{port}", *options)
    find = ready_after("spawned uWSGI http 1", f"tcp://127.0.0.1:{port}")
    yield Peer("uWSGI behind its HTTP router", router, UWSGI, find)


def http_both() -> Iterator[Peer]:
    """Return the HTTP servers that keep a connection or close it, as the client wishes."""
    yield Peer(f"gunicorn gthread, {THREADS}", gunicorn("gthread"), GUNICORN, find_gunicorn)
    listen = [f"--listen={ANY_PORT}", f"--threads={THREADS}", "--backlog=2048"]
    waitress = [sys.executable, "-m", "waitress", *listen, APPLICATION]
    yield Peer(f"waitress, {THREADS} threads", waitress, WAITRESS, find_waitress)
    yield Peer(f"cheroot, {THREADS} threads", peer("peers_wsgi", "cheroot", THREADS), CHEROOT)
    port = free_port()
    find = ready_after("Started worker-1", f"tcp://127.0.0.1:{port}")
    yield Peer(f"granian, {THREADS} blocking threads", granian(port), GRANIAN, find)


def ours_http(name: str, handler: str, folder: Path, *options: str) -> Peer:
    """Return one of the examples in a mode, in the folder whose file is served."""
    mode, *rest = options
    target = f"{CHECKOUT}/benchmarks/peers_http.py:{handler}"
    command = forkserve_command(target, mode, "-b", f"tcp://{ANY_PORT}", *rest)
    environment = {"WSGI_APP": APPLICATION, **FROM_AFAR}
    return Peer(f"forkserve {name}", command, environment=environment, folder=folder)


def stdlib_http(name: str, kind: str, handler: str, folder: Path) -> Peer:
    """Return http.server with the same handler."""
    command = peer("peers_http", kind, handler)
    return Peer(name, command, environment=FROM_AFAR, folder=folder)


def gunicorn(worker: str) -> list[str]:
    """Return the command of one worker of gunicorn."""
    options = ["-w", "1", "-k", worker, "-b", ANY_PORT, "--no-control-socket"]
    threads = ["--threads", THREADS] if worker == "gthread" else []
    return [sys.executable, "-m", "gunicorn", *options, *threads, APPLICATION]


def uwsgi(*options: str) -> list[str]:
    """Return the command of one worker of uWSGI without a line of log for each request."""
    module = ["--master", "--processes", "1", "--module", APPLICATION]
    fixed = ["--die-on-term", "--disable-logging", "--listen", "2048", "--need-app"]
    return [beside_python("uwsgi"), *options, *fixed, *module]


def granian(port: int) -> list[str]:
    """Return the command of one worker of granian."""
    where = ["--interface", "wsgi", "--host", "127.0.0.1", "--port", str(port)]
    size = ["--workers", "1", "--blocking-threads", THREADS, "--backlog", "2048"]
    return [sys.executable, "-m", "granian", *where, *size, APPLICATION]


find_gunicorn = ready_after_address(r"Listening at: http://127\.0\.0\.1:(\d+)", "Booting worker")
find_uwsgi = ready_after_address(
    r"bound to TCP address 127\.0\.0\.1:(\d+)", "spawned uWSGI worker 1"
)
find_waitress = ready_after_address(r"Serving on http://127\.0\.0\.1:(\d+)", "Serving on")


def redis_likes() -> Iterator[Peer]:
    """Return our Redis, whose memory is a process', and Redis."""
    target = "examples/redis_like.py:Redis"
    where, threads = ("-b", f"tcp://{ANY_PORT}"), ("--threads", OUR_THREADS)
    yield Peer("forkserve redis_like.py, thread", forkserve_command(target, "thread", *where))
    for workers in ("1", "4"):
        name = f"forkserve redis_like.py, prefork, {workers} x {OUR_THREADS} threads"
        command = forkserve_command(target, "prefork", *where, "-w", workers, *threads)
        yield Peer(name, command)
    port = free_port()
    options = ["--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no"]
    find = ready_after("Ready to accept connections", f"tcp://127.0.0.1:{port}")
    yield Peer("redis-server itself, in C", ["redis-server", *options], REDIS_SERVER, find)
