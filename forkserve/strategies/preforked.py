"""Many workers on shared listeners, each of them iterative or threaded."""

from typing import TYPE_CHECKING

from forkserve.strategies.iterative import Iterative

if TYPE_CHECKING:
    from forkserve.strategies import Strategy


def make_preforked(threads: int | None) -> "Strategy":
    """Return what each pre-forked worker runs: the leader sees to it that there are many."""
    if threads is None or threads == 1:
        return Iterative()
    from forkserve.strategies.threaded import Threaded  # imports threading

    return Threaded(threads)
