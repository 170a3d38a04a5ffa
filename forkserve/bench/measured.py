"""What the variants of a benchmark have shown."""

from dataclasses import dataclass, field

from forkserve.bench.rounds import Turn
from forkserve.bench.variants import Variant

LEAST = 1e-9  # what is nothing is taken for this, where something is divided by it


@dataclass(frozen=True, slots=True)
class Profile:
    """Where the time of a connection goes that has the server to itself, in seconds."""

    latency: float
    server: float  # on a CPU, in the server
    client: float  # on a CPU, in the client
    delay: float = 0.0  # either of them, waiting for a CPU

    @property
    def processor_share(self) -> float:
        """The share in which the server is on a CPU."""
        return min(1.0, self.server / max(self.latency, LEAST))

    @property
    def waiting_share(self) -> float:
        """The share in which neither side is on a CPU: the handler waits for something else."""
        known = self.server + self.client + self.delay
        return max(0.0, 1.0 - known / max(self.latency, LEAST))

    @property
    def delay_share(self) -> float:
        """The share in which one of them could have run and had no CPU."""
        return min(1.0, self.delay / max(self.latency, LEAST))


@dataclass(slots=True)
class Measured:
    """What one variant did: its turns, round by round, for each concurrency."""

    variant: Variant
    turns: dict[int, list[Turn]] = field(default_factory=dict)
    deaths: int = 0  # of workers, or of connections' processes
    served_by: tuple[int, ...] = ()  # connections of each worker
    excluded: str = ""  # why it has no figures
    idle_each: float = 0.0  # bytes of an idle connection

    def lost(self) -> int:
        """Return how many clients were not answered."""
        return sum(turn.failed for turns in self.turns.values() for turn in turns)
