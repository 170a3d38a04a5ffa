"""Leave traces where a copied process would leave them twice."""

import atexit
import os
import sys
from pathlib import Path

from tests.handlers.acts import Stream

__all__ = ["Stream"]


def _note() -> None:
    with Path(os.environ["ATEXIT_NOTES"]).open("a") as notes:
        notes.write(f"{os.getpid()}\n")


atexit.register(_note)
sys.stdout.write("written once and not flushed;")
