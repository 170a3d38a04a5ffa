"""Put the figures of a kept run into the README.

    python3 benchmarks/readme.py [--check] [--from FOLDER]

Between `<!-- table: REPORT / TITLE -->` and `<!-- end -->` stands a table of that report, and
between `<!-- run: REPORT -->` and `<!-- end -->` when and where it was made, from the newest folder
of benchmarks/results that has any. With --check nothing is written, and the exit status is 1 if
something else stands there.
"""

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from forkserve.bench import environment, table

HERE = Path(__file__).resolve().parent
README = HERE.parent / "README.md"
PLACE = re.compile(r"<!-- (table|run): (\w+)(?: / ([^>]+?))? -->\n.*?<!-- end -->", re.DOTALL)


def fill(text: str, folder: Path) -> str:
    """Return a text whose places show what the reports in a folder hold.

    Raises KeyError where there is no such report or table.
    """

    def show(place: re.Match[str]) -> str:
        kind, name, title = place.groups()
        report = read_report(folder, name)
        if kind == "run":
            line = environment.in_one_line(report["environment"])
            shown = f"Run of {folder.name}: {line}."
        else:
            shown = find_table(report, title).as_markdown()
        head = place[0].partition("\n")[0]
        return f"{head}\n{shown}\n<!-- end -->"

    return PLACE.sub(show, text)


def read_report(folder: Path, name: str) -> dict[str, Any]:
    """Return a report that a run has kept."""
    file = folder / f"{name}.json"
    if not file.exists():
        raise KeyError(f"{folder} has no report {name}")
    return dict(json.loads(file.read_text()))


def find_table(report: dict[str, Any], title: str) -> table.Table:
    """Return the table of a report that has this title, or this place among its tables."""
    for number, values in enumerate(report["tables"], 1):
        if title in (values["title"], str(number)):
            return table.from_json(values)
    titles = ", ".join(repr(values["title"]) for values in report["tables"])
    raise KeyError(f"{report['name']} has no table {title!r}, it has {titles}")


def newest(results: Path = HERE / "results") -> Path:
    """Return the last of the folders that are named by a date."""
    return max(folder for folder in results.iterdir() if (folder / "dispatch.json").exists())


def main() -> int:
    """Write, or check; return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="only say whether it is up to date")
    parser.add_argument("--from", dest="folder", type=Path, metavar="FOLDER")
    options = parser.parse_args()
    text = README.read_text()
    filled = fill(text, options.folder or newest())
    if options.check:
        if filled != text:
            print("README.md does not show the newest results: python3 benchmarks/readme.py")
        return int(filled != text)
    README.write_text(filled)
    return 0


if __name__ == "__main__":
    sys.exit(main())
