"""How many connections at a time: the whole server's bound, shared out to its workers."""

import resource

from forkserve.settings import Mode, Settings

_OTHER_DESCRIPTORS = 64  # standard streams, listeners, pipes, and what the user's module opens


def share(max_connections: int, workers: int) -> int:
    """Return one worker's equal share of the bound, rounded up."""
    return -(-max_connections // workers)


def count_lanes(settings: Settings) -> int:
    """Return how many connections at a time a worker may be serving."""
    limit = share(settings.max_connections, settings.count_workers())
    if settings.mode is Mode.PROCESS or (settings.mode is Mode.THREAD and not settings.threads):
        return limit
    return min(settings.threads or 1, limit)


def raise_descriptor_limit(connections: int) -> int | None:
    """Make room for this many connections a process, as far as the hard limit lets us.

    Return how many descriptors are allowed if that is still too few, else None.
    """
    wanted = connections + _OTHER_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return None
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, allowed), hard))
    return None if allowed >= wanted else allowed
