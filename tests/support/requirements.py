"""Skip a test at home for want of a tool; fail it under CI."""

import importlib.util
import os
import shutil
import socket
from typing import NoReturn

import pytest


def missing(what: str) -> NoReturn:
    """Skip the test and name what is missing; under CI that is a failure."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{what} is missing, and CI must have it", pytrace=False)
    pytest.skip(f"{what} is missing")


def requires(*tools: str) -> None:
    """Go on only where every one of these programs is installed."""
    for tool in tools:
        if shutil.which(tool) is None:
            missing(tool)


def requires_package(name: str, *, in_ci: bool = True) -> None:
    """Go on only where Python can import this; CI need not have what the test extra lacks."""
    if importlib.util.find_spec(name) is None:
        if in_ci:
            missing(f"the package {name}")
        pytest.skip(f"the package {name} is missing, and is not in the test extra")


def requires_root() -> None:
    """Go on only where the tests run as root."""
    if os.geteuid() != 0:
        missing("root")


def requires_ipv6() -> None:
    """Go on only where the loopback interface has an IPv6 address."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        missing("IPv6 on the loopback interface")
