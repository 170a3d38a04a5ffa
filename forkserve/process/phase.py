"""The phases of a leader's life and of a worker's, as their leader remembers them."""

import enum


class Phase(enum.Enum):
    """How far the end of something has come; only ever moves down this list."""

    BOOTING = enum.auto()
    SERVING = enum.auto()
    STOPPING = enum.auto()
    HURRYING = enum.auto()
    KILLED = enum.auto()

    def is_ending(self) -> bool:
        """Whether a stop was asked for."""
        return self in (Phase.STOPPING, Phase.HURRYING, Phase.KILLED)
