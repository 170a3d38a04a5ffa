"""Send back whatever arrives: the smallest useful handler, as a class and as a function."""

import forkserve


class Echo(forkserve.StreamHandler):
    """Send back whatever arrives, until the client has said everything."""

    def handle(self) -> None:
        # recv() waits for at least one byte and returns what is there; b"" is the client's end.
        while data := self.connection.recv():
            self.connection.send_all(data)


def echo(connection: forkserve.Connection) -> None:
    """Do the same without a class; `forkserve run examples/echo.py:echo` serves this one."""
    while data := connection.recv():
        connection.send_all(data)
