"""pyzor: its server with threads, which takes TERM and USR1 for itself when it is made."""

from typing import Any

from pyzor.server import ThreadingServer


def make() -> Any:
    """Return a server without a user, a rule or a record."""
    return ThreadingServer(("127.0.0.1", 0), {}, "no-passwords", "no-rules")
