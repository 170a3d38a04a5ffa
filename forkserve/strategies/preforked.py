"""Many workers on shared listeners, each of them iterative or threaded."""

from forkserve.strategies import Strategy
from forkserve.strategies.iterative import Iterative
from forkserve.strategies.threaded import Threaded


def make_preforked(threads: int | None) -> Strategy:
    """Return what each pre-forked worker runs: the leader sees to it that there are many."""
    return Iterative() if threads is None or threads == 1 else Threaded(threads)
