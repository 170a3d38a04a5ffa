"""How much memory a server of four workers takes beside gunicorn, with the same application.

    python3 benchmarks/memory.py [--quick] [--maps] [--requests N] [--touch N] [--json FILE]

The application is a WSGI one that holds some 50 MB of small objects. Memory is PSS, so what
processes share counts once, summed over the server's process tree, at four stages: when it is
ready; after 2000 requests that say hello and leave garbage; after a full garbage collection in each
worker; after 2000 requests that each read a random one of the objects. What is read has its
reference count written, what is collected its header: that is what parts the pages of parent and
child. How much an application reads is its own affair, so the last stage has no target. A MB is
1,000,000 bytes. The exit status is 0 when every target holds, else 3.
"""

import argparse
import contextlib
import importlib.metadata
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.servers import CHECKOUT
from forkserve.bench.figures import Verdict
from forkserve.bench.server import Server
from forkserve.bench.usage import tree

WORKERS = 4
CLIENTS = 8
SETTLE = 0.5
TIMEOUT = 30.0
SMALL_KB = 60
OURS, PLAIN, PRELOAD, LEAN = "forkserve", "gunicorn", "gunicorn --preload", "gunicorn, lean preload"
MOST = {PLAIN: 0.35, PRELOAD: 1.0, LEAN: None}
SUPERVISOR_MB = 16.0
STAGES = ("ready", "hello", "collected", "read")
JUDGED = STAGES[:3]

APPLICATION = """
import gc, json, os, random

chance = random.Random(1)
TOUCH = int(os.environ["TOUCH"])


def record(number):
    words = [f"word{chance.randrange(10**6)}" for _ in range(6)]
    return {
        "id": number,
        "name": " ".join(words[:2]),
        "description": " ".join(words * 3),
        "price": chance.random(),
        "tags": words,
        "stock": {"warehouse": words[0], "rows": [number, number + 10**6], "is_low": False},
    }


# through JSON, since objects that are read from somewhere are what applications hold
CATALOGUE = json.loads(json.dumps([record(number) for number in range(32_000)]))


class Node:
    pass


def garbage():
    for _ in range(100):
        node = Node()
        node.other = Node()
        node.other.other = node


def application(environ, start_response):
    found = []
    if environ["PATH_INFO"] == "/read":
        found = [chance.choice(CATALOGUE)["name"] for _ in range(TOUCH)]
    garbage()
    if environ["PATH_INFO"] == "/collected":
        gc.collect()
    page = f"{os.getpid()}\\nhello {found}\\n".encode()
    length = str(len(page))
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", length)])
    return [page]
"""

# gunicorn writes no line for each request, so neither do we
QUIET = """
from examples.wsgi import App


class Quiet(App):
    def log_request(self, *_):
        pass
"""

# The master listens before its workers have imported anything, so they tell.
GUNICORN_SETTINGS = """
import sys

control_socket = "FOLDER/control"  # else it would be in the home of who measures


def post_worker_init(worker):
    print("worker is ready", file=sys.stderr, flush=True)
"""
# The control socket is on by default and costs the master some 5 MB, so here is one without it. An
# older gunicorn passes over what it does not know in a file of settings, but not among options.
LEAN_SETTINGS = """
from gunicorn_settings import *

control_socket_disable = True
"""


def find_workers_ready(said: str) -> str | None:
    """Return where a gunicorn listens whose workers all have the application."""
    found = re.search(r"Listening at: http://(127\.0\.0\.1:\d+)", said)
    return found[1] if found and said.count("worker is ready") >= WORKERS else None


def ours(environment: list[str]) -> Server:
    """Return the application served by us."""
    options = ["-m", "prefork", "-w", str(WORKERS), "-b", "tcp://127.0.0.1:0"]
    command = [sys.executable, "-m", "forkserve", "run", "quiet:Quiet", *options]
    return Server(["env", *environment, *command], folder=CHECKOUT)


def theirs(environment: list[str], *options: str, settings: str = "gunicorn_settings") -> Server:
    """Return the application served by gunicorn."""
    command = [sys.executable, "-m", "gunicorn", "-w", str(WORKERS), "-b", "127.0.0.1:0"]
    options = ("-c", f"python:{settings}", *options, "catalogue:application")
    return Server(
        ["env", *environment, *command, *options], folder=CHECKOUT, find_ready=find_workers_ready
    )


SERVERS: dict[str, Callable[[list[str]], Server]] = {
    OURS: ours,
    PLAIN: theirs,
    PRELOAD: lambda environment: theirs(environment, "--preload"),
    LEAN: lambda environment: theirs(environment, "--preload", settings="lean_settings"),
}


@dataclass(frozen=True, slots=True)
class Memory:
    """What a process tree holds at one moment, in MB."""

    tree_pss: float
    parent_pss: float
    parent_rss: float
    processes: int


def rollup(pid: int) -> tuple[int, int]:
    """Return the RSS and the PSS of a process, in bytes."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    rss, pss = (int(text.split(f"\n{name}:")[1].split()[0]) * 1024 for name in ("Rss", "Pss"))
    return rss, pss


def weigh(pid: int) -> Memory:
    """Return what a process and its descendants hold."""
    found = {member: rollup(member) for member in tree(pid)}
    rss, pss = found[pid]
    total = sum(pss for _, pss in found.values())
    return Memory(total / 1e6, pss / 1e6, rss / 1e6, len(found))


class Load:
    """Requests by several clients, counted by the worker that answered."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.answers: Counter[int] = Counter()
        self._lock = threading.Lock()
        self._failures: list[Exception] = []

    def run(self, path: str, at_least: int) -> None:
        """Ask until every worker has answered, and so many requests are answered."""
        self.answers.clear()
        clients = [
            threading.Thread(target=self._ask, args=(path, at_least)) for _ in range(CLIENTS)
        ]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        if self._failures:
            raise self._failures[0]

    def _ask(self, path: str, at_least: int) -> None:
        url = f"http://127.0.0.1:{self.port}{path}"
        try:
            while self.answers.total() < at_least or len(self.answers) < WORKERS:
                with urllib.request.urlopen(url, timeout=TIMEOUT) as answer:
                    pid = int(answer.readline())
                with self._lock:
                    self.answers[pid] += 1
        except Exception as error:
            self._failures.append(error)


@dataclass(frozen=True, slots=True)
class Run:
    """One start of a server: what it held at each stage, who said hello, what its parent is."""

    stages: dict[str, Memory]
    hellos: list[int]
    maps: dict[str, dict[str, int]]


def run(server: Server, requests: int) -> Run:
    """Start a server and weigh it at every stage."""
    with server:
        load = Load(server.port)
        stages = {"ready": weigh_quiet(server)}
        load.run("/hello", requests)
        hellos = sorted(load.answers.values())
        stages["hello"] = weigh_quiet(server)
        load.run("/collected", WORKERS)
        stages["collected"] = weigh_quiet(server)
        load.run("/read", requests)
        stages["read"] = weigh_quiet(server)
        return Run(stages, hellos, kinds(server.pid))


def weigh_quiet(server: Server) -> Memory:
    """Let a server settle and weigh it."""
    if server.ends_within(SETTLE):
        raise RuntimeError(f"{server.command} ended by itself:\n{server.said()}")
    return weigh(server.pid)


# -- what the memory of one process is


def kinds(pid: int) -> dict[str, dict[str, int]]:
    """Return the kB of a process by kind of mapping: RSS, PSS, and what it has written itself."""
    found: dict[str, Counter[str]] = {}
    kind = ""
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        name, _, rest = line.partition(":")
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            kind = kind_of("".join(line.split(None, 5)[5:]))
        elif name in ("Rss", "Pss", "Anonymous"):
            found.setdefault(kind, Counter())[name] += int(rest.split()[0])
    by_size = sorted(found.items(), key=lambda item: -item[1]["Rss"])
    return {kind: dict(figures) for kind, figures in by_size if figures["Rss"]}


def kind_of(path: str) -> str:
    """Return in one word what a mapping is."""
    name = Path(path).name
    if not path:
        return "anon (Python's arenas)"
    if path.startswith("["):
        return path if path in ("[heap]", "[stack]") else "[kernel]"
    if re.match(r"libpython|python3?", name):
        return "libpython, with its data"
    if "lib-dynload" in path:
        return f"extension {name.split('.')[0]}"
    return name


def show_maps(maps: dict[str, dict[str, int]]) -> None:
    """Print what the started process' memory is, small mappings in one line."""
    lines: dict[str, Counter[str]] = {}
    total: Counter[str] = Counter()
    for kind, figures in maps.items():
        line = kind if figures["Rss"] >= SMALL_KB else f"others, each below {SMALL_KB} kB"
        lines.setdefault(line, Counter()).update(figures)
        total.update(figures)
    print(f"\n  {'memory of the supervisor, kB':40} {'RSS':>8} {'PSS':>8} {'written':>8}")
    for kind, figures in {**lines, "all": total}.items():
        print(f"  {kind:40} {figures['Rss']:8} {figures['Pss']:8} {figures['Anonymous']:8}")


# -- all starts


def write_modules(folder: Path) -> None:
    """Write what the servers import."""
    (folder / "catalogue.py").write_text(APPLICATION)
    (folder / "quiet.py").write_text(QUIET)
    settings = GUNICORN_SETTINGS.replace("FOLDER", str(folder))
    (folder / "gunicorn_settings.py").write_text(settings)
    (folder / "lean_settings.py").write_text(LEAN_SETTINGS)


def application_mb(environment: list[str]) -> float:
    """Return what the application adds to a fresh interpreter."""
    report = "print(open('/proc/self/smaps_rollup').read().split('Pss:')[1].split()[0])"
    command = ["env", *environment, sys.executable, "-c"]
    bare, loaded = (
        int(subprocess.check_output([*command, program + report]))
        for program in ("", "import catalogue; ")
    )
    return (loaded - bare) * 1024 / 1e6


def facts(options: argparse.Namespace, environment: list[str]) -> dict[str, object]:
    """Return what the figures depend on."""
    return {
        "Python": platform.python_version(),
        "gunicorn": gunicorn_version(),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "CPUs": len(os.sched_getaffinity(0)),
        "workers": WORKERS,
        "starts": options.starts,
        "requests": options.requests,
        "records read by each": options.touch,
        "application MB": round(application_mb(environment), 1),
    }


def gunicorn_version() -> str | None:
    """Return the version of gunicorn, or None without it."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version("gunicorn")
    return None


def measure(
    names: list[str], options: argparse.Namespace, environment: list[str]
) -> dict[str, list[Run]]:
    """Start every server in every round."""
    found: dict[str, list[Run]] = {name: [] for name in names}
    for _ in range(options.starts):
        for name in names:
            found[name].append(run(SERVERS[name](environment), options.requests))
    return found


def median(runs: list[Run], stage: str, name: str) -> float:
    """Return the median over the starts of a figure."""
    figures: list[float] = [getattr(one.stages[stage], name) for one in runs]
    return statistics.median(figures)


def show(found: dict[str, list[Run]]) -> None:
    """Print the table."""
    heads = "processes  tree PSS  parent PSS  parent RSS   tree PSS of all starts"
    print(f"\n  {'MB':23}{'stage':11}{heads}")
    for name, runs in found.items():
        for stage in STAGES:
            tree_pss, pss, rss = (
                median(runs, stage, what) for what in ("tree_pss", "parent_pss", "parent_rss")
            )
            processes = runs[0].stages[stage].processes
            spread = " ".join(f"{one.stages[stage].tree_pss:.1f}" for one in runs)
            figures = f"{processes:9} {tree_pss:9.1f} {pss:11.1f} {rss:11.1f}"
            print(f"  {name:22} {stage:10} {figures}   {spread}")
        hellos = ", ".join("/".join(map(str, one.hellos)) for one in runs)
        print(f"  {'':22} hellos by worker: {hellos}")
    print()


def judge(found: dict[str, list[Run]]) -> list[Verdict]:
    """Compare the trees stage by stage, and hold the started process to its size."""
    verdicts = []
    for peer, at_most in MOST.items():
        for stage in STAGES if peer in found else ():
            times = median(found[OURS], stage, "tree_pss") / median(found[peer], stage, "tree_pss")
            limit = at_most if stage in JUDGED else None
            verdicts.append(Verdict(f"{OURS} / {peer}, {stage}", times, limit, f"{times:.3f}"))
    for name, limit in (("rss", SUPERVISOR_MB), ("pss", None)):
        most = max(median(found[OURS], stage, f"parent_{name}") for stage in STAGES)
        what = f"supervisor, {name.upper()} in MB, most of all stages"
        verdicts.append(Verdict(what, most, limit, f"{most:.1f}"))
    return verdicts


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--quick",
        dest="starts",
        action="store_const",
        const=1,
        default=3,
        help="one start of each server instead of the median of 3",
    )
    parser.add_argument(
        "--requests", type=int, default=2000, metavar="N", help="N requests a stage (2000)"
    )
    parser.add_argument(
        "--touch", type=int, default=1, metavar="N", help="objects that a request reads, last (1)"
    )
    parser.add_argument("--maps", action="store_true", help="say what the supervisor's memory is")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures here too")
    return parser.parse_args()


def main() -> int:
    """Measure, print, and return the exit status."""
    options = parse()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    with tempfile.TemporaryDirectory(prefix="forkserve-memory-") as folder:
        write_modules(Path(folder))
        environment = [
            f"PYTHONPATH={folder}",
            "WSGI_APP=catalogue:application",
            f"TOUCH={options.touch}",
        ]
        known = facts(options, environment)
        print(", ".join(f"{name} {fact}" for name, fact in known.items()))
        if known["gunicorn"] is None:
            print("gunicorn is missing (pip install gunicorn): its lines are left out")
        names = list(SERVERS) if known["gunicorn"] else [OURS]
        found = measure(names, options, environment)
    show(found)
    verdicts = judge(found)
    for verdict in verdicts:
        print(verdict)
    if options.maps:
        show_maps(found[OURS][0].maps)
    if options.json:
        report = {
            "environment": known,
            "starts": {name: [asdict(one) for one in runs] for name, runs in found.items()},
            "verdicts": [verdict.as_json() for verdict in verdicts],
        }
        options.json.write_text(json.dumps(report, indent=1))
    return 0 if all(verdict.holds for verdict in verdicts) else 3


if __name__ == "__main__":
    sys.exit(main())
