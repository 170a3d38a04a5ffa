"""Start a thread when imported, as many a client library does."""

import threading

from tests.handlers.echo import Stream

__all__ = ["Stream"]

threading.Thread(target=threading.Event().wait, name="left-by-the-user", daemon=True).start()
