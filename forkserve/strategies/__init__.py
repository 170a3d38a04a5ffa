"""The modes by name, and the strategies behind them."""

from typing import TYPE_CHECKING, Protocol

from forkserve.settings import Mode

if TYPE_CHECKING:
    from forkserve.service import Service


class Strategy(Protocol):
    """Decides who runs the accept loop in one worker, and how many of them."""

    def serve(self, service: "Service") -> None:
        """Serve until the service's stop is set and what runs is finished; blocks."""
        ...


def make_strategy(
    mode: Mode, *, threads: int | None, spare: int, connections_per_child: int
) -> Strategy:
    """Return the mode's strategy; only the module it needs is imported."""
    if mode is Mode.ITERATIVE:
        from forkserve.strategies.iterative import Iterative

        return Iterative()
    if mode is Mode.THREAD:
        from forkserve.strategies.threaded import Threaded

        return Threaded(threads)
    if mode is Mode.PROCESS:
        from forkserve.strategies.forking import Forking

        return Forking(spare, connections_per_child)
    from forkserve.strategies.preforked import make_preforked

    return make_preforked(threads)
