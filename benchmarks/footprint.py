"""What forkserve costs when nothing happens: importing it, idling, holding idle connections.

    python3 benchmarks/footprint.py [--quick] [--only imports idle held] [--json FILE]

The exit status is 0 when every target holds, else 3.
"""

import argparse
import json
import os
import random
import re
import resource
import select
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.generator import Generator
from benchmarks.servers import CHECKOUT, Server, forkserve, peer
from forkserve.bench.figures import Verdict, ratio
from forkserve.bench.usage import cpu_seconds, tree

SIZE = 64
AT_ONCE = 250
TIMEOUT = 60.0
SETTLE = 0.5
IMPORT_MS, IMPORT_MIB = 25.0, 5.0
SAME_CPU = 1.10  # "what it was with none", and what a few rounds can tell apart
REPORT = "print(open('/proc/self/status').read())"
PROGRAMS = {
    "bare": REPORT,
    "import forkserve": f"import forkserve; {REPORT}",
    "every public name": f"import forkserve; [getattr(forkserve, n) for n in forkserve.__all__]; "
    f"{REPORT}",
}
MODES = {
    "iterative": ["iterative"],
    "thread": ["thread"],
    "process": ["process"],
    "process with spares": ["process", "--spare", "4"],
    "prefork": ["prefork", "-w", "4"],
}


def start_and_end(program: str) -> tuple[float, float]:
    """Run a program in a fresh interpreter; return its milliseconds and its resident MiB."""
    begun = time.perf_counter()
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=CHECKOUT, capture_output=True, text=True, check=True
    )
    took = time.perf_counter() - begun
    return took * 1e3, int(run.stdout.split("VmRSS:")[1].split()[0]) / 1024


def imports(quick: bool) -> list[Verdict]:
    """Compare fresh interpreters, each kind in every round."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in PROGRAMS}
    for number in range((15 if quick else 41) + 1):
        for name in random.Random(number).sample(list(PROGRAMS), len(PROGRAMS)):
            figures = start_and_end(PROGRAMS[name])
            if number:  # round 0 fills the caches
                found[name].append(figures)
    verdicts = []
    for name in list(PROGRAMS)[1:]:
        pairs = list(zip(found[name], found["bare"], strict=True))
        ms = statistics.median(ours[0] - bare[0] for ours, bare in pairs)
        mib = statistics.median(ours[1] - bare[1] for ours, bare in pairs)
        verdicts += [
            Verdict(f"{name}: ms over a bare interpreter", ms, IMPORT_MS, f"{ms:.1f} ms"),
            Verdict(f"{name}: MiB over a bare interpreter", mib, IMPORT_MIB, f"{mib:.2f} MiB"),
        ]
    return verdicts


class Trace:
    """strace on every process and thread of a server; stop() returns what it saw."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.output = folder / f"{server.pid}"
        pids = [option for pid in tree(server.pid) for option in ("-p", str(pid))]
        self.process = subprocess.Popen(
            ["strace", "-f", "-ttt", "-o", str(self.output), *pids], stderr=subprocess.PIPE
        )
        assert self.process.stderr
        attached = 0
        while attached < len(pids) // 2:
            if not select.select([self.process.stderr], [], [], 10)[0]:
                raise RuntimeError("strace does not attach")
            said = os.read(self.process.stderr.fileno(), 65536).decode()
            if not said or "not permitted" in said:
                raise RuntimeError(f"strace: {said.strip()}")
            attached += said.count(" attached")

    def stop(self, since: float, until: float) -> list[str]:
        """Return the system calls made in a stretch of time."""
        self.process.send_signal(signal.SIGINT)
        self.process.communicate(timeout=10)
        stamped = re.findall(r"^(\d+ +(\d+\.\d+) .*)", self.output.read_text(), re.MULTILINE)
        return [line for line, stamp in stamped if since < float(stamp) < until]


def idle(quick: bool) -> list[Verdict]:
    """Watch idle servers of every mode and count their system calls."""
    if not shutil.which("strace"):
        print("strace is missing: whether an idle server sleeps is left out")
        return []
    seconds = 3 if quick else 10
    verdicts = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        servers = {
            name: stack.enter_context(Server(forkserve("Once", *options)))
            for name, options in MODES.items()
        }
        traces = {name: Trace(server, folder) for name, server in servers.items()}
        last = list(servers.values())[-1]
        last.ends_within(SETTLE)  # being traced interrupts what waits
        since = time.time()
        last.ends_within(seconds)
        until = time.time()
        for name, trace in traces.items():
            calls = trace.stop(since, until)
            what = f"{name}: system calls of {len(tree(servers[name].pid))} processes, {seconds} s"
            verdicts.append(Verdict(what, len(calls), 0, f"{len(calls)} {calls[:3] or ''}"))
    return verdicts


@contextmanager
def held(port: int, count: int) -> Iterator[None]:
    """Hold so many connections, each answered once and then idle."""
    socks: list[socket.socket] = []
    try:
        while len(socks) < count:
            new = [
                socket.create_connection(("127.0.0.1", port), TIMEOUT)
                for _ in range(min(AT_ONCE, count - len(socks)))
            ]
            socks += new
            for sock in new:
                sock.sendall(bytes(SIZE))
            for sock in new:
                if sock.recv(SIZE) != bytes(SIZE):
                    raise RuntimeError("a connection was not answered")
        yield
    finally:
        for sock in socks:
            sock.close()


def resident(pid: int) -> int:
    """Return the bytes in memory of a server, what it shares counted once."""
    total = 0
    for member in tree(pid):
        rollup = Path(f"/proc/{member}/smaps_rollup").read_text()
        total += int(rollup.split("\nPss:")[1].split()[0]) * 1024
    return total


def possible() -> int:
    """Return how many connections we can hold, after raising our limit as far as it goes."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard < 5200:
        print(f"only {hard} descriptors are allowed: fewer connections than 5000 are held")
    return min(5000, hard - 200)


HOLDERS: dict[str, Callable[[], list[str]]] = {
    "ThreadingTCPServer": lambda: peer("peers_stdlib", "ThreadingTCPServer", "peer"),
    "thread": lambda: forkserve("UntilEnd", "thread", "--max-connections", "6000"),
}


def hold(quick: bool) -> list[Verdict]:
    """Hold idle connections and see what each takes, and what one more short one costs."""
    count, rounds = possible(), 3 if quick else 11
    cpus = sorted(os.sched_getaffinity(0))
    each: dict[str, float] = {}
    spent: dict[str, list[float]] = {}
    verdicts = []
    for name, command in HOLDERS.items():
        with Generator({cpus[-1]}) as load, ExitStack() as stack:
            full, empty = (stack.enter_context(Server(command(), {cpus[0]})) for _ in range(2))
            servers = {f"{name}, none held": empty, f"{name}, {count} held": full}
            load.run(full.port, "peer", 0.3)
            before = resident(full.pid)
            with held(full.port, count):
                full.ends_within(SETTLE)
                each[name] = (resident(full.pid) - before) / count
                for _ in range(rounds):
                    for key, server in servers.items():
                        begin = cpu_seconds(server.pid)
                        made = load.run(server.port, "peer", 0.5)["ok"]
                        server.ends_within(0.1)
                        used = cpu_seconds(server.pid) - begin
                        spent.setdefault(key, []).append(used / made * 1e6)
            full.ends_within(SETTLE)
        found = ratio(spent[f"{name}, {count} held"], spent[f"{name}, none held"])
        median = statistics.median(spent[f"{name}, none held"])
        limit = SAME_CPU if name == "thread" else None
        what = f"{name}: CPU of a short connection, {count} held / none"
        verdicts.append(Verdict(what, found.median, limit, f"{found} of {median:.0f} us"))
        text = f"{each[name]:.0f} bytes"
        most = each["ThreadingTCPServer"] if name == "thread" else None
        verdicts.append(Verdict(f"{name}: memory of an idle connection", each[name], most, text))
    return verdicts


PARTS = {"imports": imports, "idle": idle, "held": hold}


def main() -> int:
    """Measure, print, and return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="shorter, and less sure")
    parser.add_argument("--only", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures here too")
    options = parser.parse_args()
    verdicts = []
    for name in options.only:
        print(f"\n{name}", flush=True)
        for verdict in PARTS[name](options.quick):
            print(verdict, flush=True)
            verdicts.append(verdict)
    if options.json:
        options.json.write_text(json.dumps([v.as_json() for v in verdicts], indent=1))
    return 0 if all(verdict.holds for verdict in verdicts) else 3


if __name__ == "__main__":
    sys.exit(main())
