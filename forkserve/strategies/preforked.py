"""Many workers on shared listeners, each of them iterative or threaded."""

from forkserve.strategies import Strategy
from forkserve.strategies.iterative import Iterative


def make_preforked(threads: int | None) -> Strategy:
    """Return what each pre-forked worker runs: the leader sees to it that there are many."""
    if threads is None or threads == 1:
        return Iterative()
    from forkserve.strategies.threaded import Threaded  # imports threading

    return Threaded(threads)
