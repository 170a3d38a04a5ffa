"""socat talks to a Unix datagram socket in every mode."""

import subprocess
from pathlib import Path

import pytest

from tests.support.modes import MODES, Mode, named
from tests.support.requirements import requires
from tests.support.server import handler, running

SENT = bytes(range(256)) * 20


@pytest.mark.parametrize("mode", MODES, ids=named(MODES))
def test_socat_gets_its_datagram_back(mode: Mode, tmp_path: Path) -> None:
    """What socat sends from a path of its own comes back to it, byte by byte."""
    requires("socat")
    where = f"unixgram://{tmp_path}/s"
    with running(handler("meddler.py:Datagram"), *mode.arguments, address=where):
        command = ["socat", "-t", "10", "-", f"UNIX-SENDTO:{tmp_path}/s,bind={tmp_path}/client"]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        ) as socat:
            assert socat.stdin
            assert socat.stdout
            socat.stdin.write(SENT)
            received = b""
            while len(received) < len(SENT):
                received += socat.stdout.read(65536)
            socat.terminate()
        assert received == SENT
    (tmp_path / "client").unlink(missing_ok=True)
