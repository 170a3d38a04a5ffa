"""Say when nothing would be lost if the connection ended."""

import forkserve


class Marked(forkserve.StreamHandler):
    """Echo lines, idle between two of them."""

    def handle(self) -> None:
        """Wait for each line inside the idle mark, answer outside of it."""
        while line := self._next_line():
            self.connection.send_all(line)

    def _next_line(self) -> bytes:
        with self.connection.idle():
            return self.rfile.readline()


class Unmarked(forkserve.StreamHandler):
    """Echo lines and never say that waiting is idle."""

    def handle(self) -> None:
        """Answer each line; say goodbye when the wait is over."""
        while line := self.rfile.readline():
            self.connection.send_all(line)
