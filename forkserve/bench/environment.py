"""What figures depend on: the machine, its load, the versions."""

import os
import platform
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from forkserve import __version__


def describe(packages: Sequence[str] = ()) -> dict[str, Any]:
    """Return what a reader of figures must know, as plain values."""
    return {
        "forkserve": __version__,
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "kernel": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "processor": _processor(),
        "CPUs": len(os.sched_getaffinity(0)),
        "memory": f"{_memory() / 2**30:.1f} GiB",
        "load before": round(os.getloadavg()[0], 2),
        "hypervisor": "yes" if _has_hypervisor() else "no",
        **{name: version(name) for name in packages},
    }


def version(package: str) -> str | None:
    """Return the version of an installed package, None where it is missing."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def in_one_line(environment: dict[str, Any]) -> str:
    """Return the most important of it for a terminal."""
    return (
        f"{environment['Python']}, {environment['kernel']}, {environment['CPUs']} CPUs"
        f" ({environment['processor']}), load {environment['load before']}"
    )


def is_terminal() -> bool:
    """Whether somebody watches standard error."""
    return sys.stderr.isatty()


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith(("model name", "Model")):
            return " ".join(line.partition(":")[2].split())
    return "unknown"


def _has_hypervisor() -> bool:
    return " hypervisor" in Path("/proc/cpuinfo").read_text()


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
