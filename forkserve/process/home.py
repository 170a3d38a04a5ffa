"""Addresses that a generation's own code names: bound by its leader, kept by the supervisor."""

import mmap
import os
import socket
from collections.abc import Sequence

from forkserve.address import InheritedAddress, parse_address
from forkserve.binding import AnyListener
from forkserve.datagram import DatagramListener
from forkserve.errors import ForkserveError
from forkserve.listener import Listener
from forkserve.process import libc
from forkserve.process.channel import Channel, Message
from forkserve.scoreboard import Scoreboard


class Home:
    """What one generation listens on beyond the addresses that the user gave.

    Made before the fork: the leader takes from ``kept`` what it wants again, or tells of what it
    has bound itself, and the supervisor follows it from message to message.
    """

    def __init__(self, kept: Sequence[AnyListener]) -> None:
        self.kept = kept
        self.used: list[AnyListener] = []
        self._new: list[AnyListener] = []
        self.flag = mmap.mmap(-1, 1)  # whether what is bound next is quiesced

    def take(self, message: Message) -> None:
        """In the supervisor: own what the leader has bound, or note what it uses again."""
        if message.descriptor is None:
            self.used += [one for one in self.kept if str(one) == message.text]
            return
        listener = _own(message.descriptor, message.text)
        listener.share_flag(self.flag)
        self.used.append(listener)
        self._new.append(listener)

    def forget_new(self) -> None:
        """In the supervisor: give up what was bound by a generation that never served."""
        for listener in self._new:
            listener.close()
        self._new.clear()


def _own(descriptor: int, text: str) -> AnyListener:
    bound = socket.socket(fileno=descriptor)
    try:
        address = parse_address(text)
    except ValueError:
        address = InheritedAddress(text, descriptor)
    if bound.type == socket.SOCK_DGRAM:
        return DatagramListener(address, bound)
    return Listener(address, bound)


class Superior:
    """What a leader has from its supervisor, and its way to tell it something."""

    def __init__(
        self,
        listeners: Sequence[AnyListener],
        home: Home,
        channel: Channel,
        board: Scoreboard,
    ) -> None:
        self.listeners = listeners
        self.kept = home.kept
        self.board = board
        self.pid = os.getppid()
        self.leader = os.getpid()
        self._home = home
        self._channel = channel

    def fileno(self) -> int:
        """Return a descriptor that is at its end when the supervisor is."""
        return self._channel.fileno()

    def give(self, listener: AnyListener) -> None:
        """Make the supervisor own what we have bound."""
        self._channel.send("home", listener.address.text, listener.fileno())
        listener.share_flag(self._home.flag)
        listener.belong_to(self.pid)

    def use_again(self, listener: AnyListener) -> None:
        """Say that we serve what an earlier generation has bound."""
        self._channel.send("home", str(listener))

    def say_loaded(self) -> None:
        """Say that the user's code is imported, and workers are about to start."""
        self._channel.send("loaded")

    def is_for_us(self) -> bool:
        """Whether this is the leader, and not a process that the user's code has forked from it."""
        return os.getpid() == self.leader

    def say_leaving(self) -> None:
        """Say that we stop accepting: news if the supervisor has not asked for it."""
        self._channel.send("leaving")

    def say_ready(self) -> None:
        """Say that every worker is ready: from here on we end in order if our supervisor dies."""
        libc.die_with_parent(self.pid, 0)
        self._channel.send("ready")

    def say_failed(self, error: ForkserveError) -> None:
        """Say why this generation will not serve."""
        self._channel.send("failed", f"{error.exit_status} {error}")
