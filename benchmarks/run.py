"""Run all benchmarks and keep what they find: a file of JSON each, and one page of all of them.

    python3 benchmarks/run.py [--quick] [--only NAME...] [--to FOLDER]
    python3 benchmarks/run.py --agree FOLDER FOLDER

Without --to the results go to benchmarks/results/DATE/. In full it takes under 40 minutes, with
--quick under 3, and wants a machine with nothing else to do. --agree compares two full runs: each
ratio that differs by more than 10 % must be one that a run has marked as noisy, else the exit
status is 3. Exit status 1: a benchmark failed; the others are kept.
"""

import argparse
import datetime
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from forkserve.bench import chart, page, table
from forkserve.bench.server import not_outliving_us
from forkserve.bench.table import Table

HERE = Path(__file__).resolve().parent
NAMES = ("dispatch", "unp", "workloads", "peers")
FINE = (0, 3)  # 3: it ran, and a target of its falls short, which its tables say
AGREE = 0.10


def run(name: str, folder: Path, *, quick: bool) -> bool:
    """Run one benchmark and keep its JSON; tell whether it has found something."""
    command = [sys.executable, str(HERE / f"{name}.py"), "--json", str(folder / f"{name}.json")]
    begun = time.monotonic()
    command += ["--quick"] if quick else []
    done = subprocess.run(not_outliving_us(command, "TERM"), check=False)
    print(f"-- {name}: status {done.returncode} after {time.monotonic() - begun:.0f} s\n")
    return done.returncode in FINE


def make_page(reports: Sequence[dict[str, Any]]) -> str:
    """Return a page of all that was found."""
    parts: list[page.Part] = []
    for report in reports:
        parts += [page.Heading(report["title"], 2), page.Text(report["text"])]
        parts += [page.Text(line) for line in report["missing"]]
        parts += [table.from_json(values) for values in report["tables"]]
        parts += [chart.from_json(values) for values in report["charts"]]
    environment: dict[str, Any] = {}
    for report in reversed(reports):  # of the load before, that of the first counts
        environment |= report["environment"]
    return page.render("forkserve's benchmarks", parts, environment=environment)


def read_reports(folder: Path) -> list[dict[str, Any]]:
    """Return the reports of a folder, in the order of NAMES."""
    files = [folder / f"{name}.json" for name in NAMES]
    return [dict(json.loads(file.read_text())) for file in files if file.exists()]


def compare(first: Sequence[dict[str, Any]], second: Sequence[dict[str, Any]]) -> Table:
    """Return every ratio that two runs have in common, and whether they agree on it."""
    ratios = [
        {f"{report['name']}: {name}": r for report in run for name, r in report["ratios"].items()}
        for run in (first, second)
    ]
    rows = []
    for name in ratios[0]:
        if name in ratios[1]:
            one, other = ratios[0][name], ratios[1][name]
            verdict = judge(one, other)
            apart = f"{one['median']:.3f}", f"{other['median']:.3f}"
            rows.append((name, *apart, verdict))
    return Table("Two runs", ("ratio", "first", "second", "verdict"), tuple(rows))


def judge(one: dict[str, Any], other: dict[str, Any]) -> str:
    """Say whether two runs agree on a ratio."""
    if abs(one["median"] / other["median"] - 1) <= AGREE:
        return "agree"
    return "noisy" if one["is_noisy"] or other["is_noisy"] else "DISAGREE"


def main() -> int:
    """Run, or compare two runs; return the exit status."""
    options = parse()
    if options.agree:
        found = compare(*(read_reports(folder) for folder in options.agree))
        if not found.rows:
            print("failed: these runs have no ratio in common", file=sys.stderr)
            return 1
        print(found.as_text())
        counts = [row[-1] for row in found.rows]
        print({verdict: counts.count(verdict) for verdict in ("agree", "noisy", "DISAGREE")})
        return 3 if "DISAGREE" in counts else 0
    folder: Path = options.to or HERE / "results" / datetime.date.today().isoformat()
    folder.mkdir(parents=True, exist_ok=True)
    failed = [name for name in options.only if not run(name, folder, quick=options.quick)]
    (folder / "index.html").write_text(make_page(read_reports(folder)))
    print(f"{folder / 'index.html'}")
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="under 3 minutes, and less sure")
    parser.add_argument("--only", nargs="+", default=NAMES, choices=NAMES, metavar="NAME")
    parser.add_argument("--to", type=Path, metavar="FOLDER", help="keep the results there")
    parser.add_argument(
        "--agree", nargs=2, type=Path, metavar="FOLDER", help="compare the results of two runs"
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
