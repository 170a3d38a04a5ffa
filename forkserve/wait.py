"""The one place where a process waits."""

import select
from collections.abc import Callable

READABLE = select.EPOLLIN
# One waiting process is woken for one connection (epoll_ctl(2)), not every idle one.
EXCLUSIVE = select.EPOLLIN | select.EPOLLEXCLUSIVE
# Two threads that share the wait must not both be told of the same peer.
ONCE = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLONESHOT


class Wait:
    """An epoll instance and what to call when a descriptor is readable.

    Made after the fork that its process came from, and never shared with another process: a
    registration belongs to the open file, so a child could remove its parent's (epoll(7)).
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[], None]] = {}
        self.register = self._epoll.register
        self.unregister = self._epoll.unregister
        self.modify = self._epoll.modify
        self.fileno = self._epoll.fileno

    def watch(self, descriptor: int, callback: Callable[[], None]) -> None:
        """Call back, from inside poll(), whenever the descriptor is readable or hung up."""
        self._epoll.register(descriptor, READABLE)
        self._callbacks[descriptor] = callback

    def forget(self, descriptor: int) -> None:
        """Stop watching, before the descriptor is closed."""
        del self._callbacks[descriptor]
        self._epoll.unregister(descriptor)

    def poll(self, timeout: float | None) -> list[int]:
        """Block for at most timeout seconds and return the readable ones without a callback."""
        unclaimed = []
        for descriptor, _ in self._epoll.poll(timeout):
            callback = self._callbacks.get(descriptor)
            if callback is None:
                unclaimed.append(descriptor)
            else:
                callback()
        return unclaimed

    def close(self) -> None:
        """Give the epoll descriptor back; what was watched stays open."""
        self._epoll.close()
