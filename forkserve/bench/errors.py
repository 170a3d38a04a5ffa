"""Why there is no figure."""

from forkserve.errors import ForkserveError


class BenchError(ForkserveError):
    """Something was wrong with the server, the load or the answers; then no figure counts.

    ``said`` is what the server wrote before, where that helps.
    """

    def __init__(self, message: str, *, said: str = "", exit_status: int = 1) -> None:
        super().__init__(message)
        self.said, self.exit_status = said, exit_status


class Spoiled(BenchError):
    """What came back in a turn is not what it should be."""
