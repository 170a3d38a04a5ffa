"""What all benchmarks found is kept together, compared, and shown in the README."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import readme, run
from forkserve.bench.table import Table

TOP = Path(__file__).parent.parent
PLACE = """# Title
<!-- run: dispatch -->
<!-- end -->
before
<!-- table: dispatch / Targets -->
old
<!-- end -->
after
"""


def ratio(median: float, *, is_noisy: bool = False) -> dict[str, Any]:
    """Return a ratio as a report keeps it."""
    return {"median": median, "low": median, "high": median, "is_noisy": is_noisy}


def report(name: str = "dispatch", **ratios: dict[str, Any]) -> dict[str, Any]:
    """Return a report with one table."""
    table = Table("Targets", ("what", "figure"), (("a < b", "1.5"),), ("a note",))
    return {
        "name": name,
        "title": "A title",
        "text": "A text.",
        "environment": {
            "Python": "CPython 3",
            "kernel": "Linux",
            "CPUs": 2,
            "processor": "P",
            "load before": 0.1,
        },
        "tables": [table.as_json()],
        "charts": [],
        "ratios": ratios,
        "missing": ["a peer: missing (install it)"],
    }


def keep(folder: Path, *reports: dict[str, Any]) -> Path:
    """Write reports as a run does."""
    folder.mkdir(parents=True)
    for one in reports:
        (folder / f"{one['name']}.json").write_text(json.dumps(one))
    return folder


@pytest.mark.parametrize(
    ("one", "other", "verdict"),
    [
        (ratio(1.0), ratio(1.09), "agree"),
        (ratio(1.0), ratio(1.2), "DISAGREE"),
        (ratio(1.2), ratio(1.0), "DISAGREE"),
        (ratio(1.0, is_noisy=True), ratio(1.2), "noisy"),
        (ratio(1.0), ratio(1.2, is_noisy=True), "noisy"),
    ],
)
def test_two_runs_agree_within_a_tenth(
    one: dict[str, Any], other: dict[str, Any], verdict: str
) -> None:
    """A ratio that two runs see differently is noisy if one of them has said so."""
    assert run.judge(one, other) == verdict


def test_what_both_runs_have_is_compared() -> None:
    """A ratio that only one run has, for want of a peer, is left out."""
    first = report(same=ratio(1.0), gone=ratio(1.0))
    second = report(same=ratio(1.0), new=ratio(1.0))
    assert [row[0] for row in run.compare([first], [second]).rows] == ["dispatch: same"]


def test_disagreement_is_the_exit_status(tmp_path: Path) -> None:
    """Two folders are compared from the command line, and 3 says that they disagree."""
    first = keep(tmp_path / "1", report(a=ratio(1.0)))
    second = keep(tmp_path / "2", report(a=ratio(2.0)))
    command = [sys.executable, "benchmarks/run.py", "--agree", str(first)]
    for other, status in ((first, 0), (second, 3)):
        done = subprocess.run([*command, str(other)], cwd=TOP, stdout=subprocess.PIPE, check=False)
        assert done.returncode == status


def test_the_page_shows_every_report() -> None:
    """Titles, texts, tables and what is missing are all on the page, and escaped."""
    shown = run.make_page([report(), report("peers")])
    assert shown.count("A title") == 2
    assert shown.count("a &lt; b") == 2
    assert shown.count("a peer: missing") == 2


def test_the_load_before_is_that_before_the_first() -> None:
    """What the others found was made by those before them; what only one knows stays."""
    first, later = report(), report("peers")
    first["environment"] |= {"load before": "0.5"}
    later["environment"] |= {"load before": "99.5", "gevent": "26.9"}
    shown = run.make_page([first, later])
    assert "99.5" not in shown
    assert "26.9" in shown


def test_reports_come_in_their_order(tmp_path: Path) -> None:
    """A folder without some of them gives the others."""
    folder = keep(tmp_path / "1", report("peers"), report("dispatch"))
    assert [one["name"] for one in run.read_reports(folder)] == ["dispatch", "peers"]


def test_the_readmes_places_are_filled(tmp_path: Path) -> None:
    """A place shows its table instead of what stood there; filling again changes nothing."""
    folder = keep(tmp_path / "2026-01-02", report())
    filled = readme.fill(PLACE, folder)
    assert "old" not in filled
    assert "| a < b | 1.5 |" in filled
    assert "Run of 2026-01-02: CPython 3" in filled
    assert readme.fill(filled, folder) == filled


@pytest.mark.parametrize("place", ["table: unp / Targets", "table: dispatch / Nothing", "run: unp"])
def test_a_place_without_figures_is_an_error(tmp_path: Path, place: str) -> None:
    """A report or table that is not there is named, and nothing is left empty."""
    folder = keep(tmp_path / "1", report())
    with pytest.raises(KeyError, match="has no"):
        readme.fill(f"<!-- {place} -->\n<!-- end -->", folder)


def test_the_newest_results_are_shown(tmp_path: Path) -> None:
    """Folders are named by their dates; one without results does not count."""
    keep(tmp_path / "2026-01-02", report())
    keep(tmp_path / "2026-02-01", report())
    (tmp_path / "2026-03-01").mkdir()
    assert readme.newest(tmp_path).name == "2026-02-01"


def test_the_readme_shows_the_newest_results() -> None:
    """The figures in the README are those of the newest run that is kept."""
    command = [sys.executable, "benchmarks/readme.py", "--check"]
    done = subprocess.run(command, cwd=TOP, stdout=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
