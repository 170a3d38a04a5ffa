"""Stop a server under load, many times, and say what became of every connection.

    python3 benchmarks/stops.py [--quick] [--mode MODE...] [--json FILE]

16 clients connect, send 64 bytes, read 64 and the end, and begin again, without a pause; the server
is told to stop (TERM) in the middle of it. A client that could connect must be answered. A refused
one is well: it can go elsewhere. The exit status is 0 when every target holds, else 3.
"""

import argparse
import contextlib
import json
import shutil
import statistics
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.generator import Generator
from benchmarks.servers import Server, forkserve
from forkserve.bench.figures import Verdict

CLIENTS = 16
LOAD_BEFORE = 0.25
LOAD_AFTER = 0.05
LONGEST = 60.0
NET_ADMIN = 12
WITHOUT = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"]
MODES = {
    "iterative": [],
    "thread": [],
    "process": [],
    "prefork": ["-w", "4"],
}
# "reset_connecting" is a connection that was reset before its first byte could be sent: a blocking
# connect() may have succeeded by then, so it counts as unanswered, as do the other four.
BAD = ("reset_connecting", "lost", "unanswered", "wrong", "unclean_end")
MOST_UNPRIVILEGED = 0.002


def has_net_admin() -> bool:
    """Tell whether a server of ours may put a filter on its listener."""
    status = Path("/proc/self/status").read_text()
    return bool(int(status.split("CapEff:")[1].split()[0], 16) >> NET_ADMIN & 1)


class Stops:
    """Many stops of one mode: what became of the connections, and how long each stop took."""

    def __init__(self, mode: str, prefix: list[str]) -> None:
        self.mode = mode
        self.command = [*prefix, *forkserve("Once", mode, *MODES[mode])]
        self.outcomes: Counter[str] = Counter()
        self.seconds: list[float] = []
        self.said: Counter[str] = Counter()
        self.statuses: Counter[int] = Counter()

    def once(self, load: Generator) -> None:
        """Start a server, load it, stop it, count."""
        with Server(self.command) as server:
            running = load.start(server.port, "server", LONGEST, at_a_time=CLIENTS)
            if server.ends_within(LOAD_BEFORE):
                raise RuntimeError(f"{self.mode} ended by itself")
            begun = time.monotonic()
            server.stop()
            self.seconds.append(time.monotonic() - begun)
            self.statuses[server.process.returncode] += 1
            self.said.update(line for line in server.said().splitlines() if " ERROR " in line)
        with contextlib.suppress(subprocess.TimeoutExpired):
            running.wait(LOAD_AFTER)
        running.terminate()
        result = load.finish(running, LONGEST)
        self.outcomes.update({k: n for k, n in result.items() if isinstance(n, int)})

    def verdicts(self, at_most: float) -> list[Verdict]:
        """Return what was found, beside the target."""
        bad = sum(self.outcomes[name] for name in BAD)
        share = bad / max(1, self.outcomes["ok"] + bad)
        found = ", ".join(f"{name} {n}" for name, n in self.outcomes.items() if n)
        took = f"{statistics.median(self.seconds):.2f} s, longest {max(self.seconds):.2f} s"
        wrong_status = sum(n for status, n in self.statuses.items() if status)
        return [
            Verdict(f"{self.mode}: connected and unanswered", share, at_most, f"{bad} ({found})"),
            Verdict(f"{self.mode}: exit status not 0", wrong_status, 0, f"{wrong_status}"),
            Verdict(f"{self.mode}: a stop took", statistics.median(self.seconds), None, took),
        ]


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="5 stops each instead of 30")
    parser.add_argument("--stops", type=int, metavar="N", help="N stops each")
    parser.add_argument(
        "--mode", nargs="+", default=list(MODES), choices=list(MODES), help="only these modes"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures here too")
    return parser.parse_args()


def series() -> dict[str, tuple[list[str], float]]:
    """Return the ways to run: their words, what goes before the command, and the target."""
    ways: dict[str, tuple[list[str], float]] = {}
    if not has_net_admin():
        print("without CAP_NET_ADMIN: stops with the capability are left out (run as root)")
        return {"without CAP_NET_ADMIN": ([], MOST_UNPRIVILEGED)}
    ways["with CAP_NET_ADMIN"] = ([], 0.0)
    if shutil.which("setpriv"):
        ways["without CAP_NET_ADMIN"] = (WITHOUT, MOST_UNPRIVILEGED)
    else:
        print("setpriv is missing (util-linux): stops without CAP_NET_ADMIN are left out")
    return ways


def main() -> int:
    """Measure, print, and return the exit status."""
    options = parse()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    count = options.stops or (5 if options.quick else 30)
    report: dict[str, list[dict[str, object]]] = {}
    with Generator() as load:
        print(f"{count} stops under {CLIENTS} clients, load generator in {load.language}")
        for words, (prefix, at_most) in series().items():
            print(f"\n{words}")
            report[words] = []
            for mode in options.mode:
                stops = Stops(mode, prefix)
                for _ in range(count):
                    stops.once(load)
                for verdict in stops.verdicts(at_most):
                    print(verdict)
                    report[words].append(verdict.as_json())
                for line, times in stops.said.items():
                    print(f"    {times} x {line}")
    if options.json:
        options.json.write_text(json.dumps(report, indent=1))
    return 0 if all(v["holds"] for found in report.values() for v in found) else 3


if __name__ == "__main__":
    sys.exit(main())
