"""Draw random numbers; the generators are used before the fork as well, so they have a state."""

import json
import os
import random
import ssl
import uuid

import forkserve


def draw() -> list[object]:
    """Return what should be nobody else's."""
    return [random.random(), ssl.RAND_bytes(8).hex(), str(uuid.uuid4())]


draw()


def answer(connection: forkserve.Connection) -> None:
    """Draw once for each line."""
    while connection.recv(1):
        connection.send_all(json.dumps([os.getpid(), *draw()]).encode() + b"\n")
