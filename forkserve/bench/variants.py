"""Which modes, numbers of workers and of threads are to be compared."""

from collections.abc import Sequence
from typing import NamedTuple

from forkserve.settings import Mode


class Variant(NamedTuple):
    """One way to serve the handler."""

    name: str
    mode: Mode
    workers: int  # of one connection at a time each, unless there are threads
    threads: int  # a worker; 0: as many as there are connections
    flags: tuple[str, ...]

    def shares_processes(self) -> bool:
        """Whether several connections are served in one process at a time."""
        return self.threads > 1 or self.mode is Mode.THREAD

    def places(self) -> int | None:
        """Return how many connections can be served at a time; None if it is not bounded so."""
        if self.mode in (Mode.THREAD, Mode.PROCESS):
            return self.threads * self.workers or None
        return self.workers * self.threads


def make_variants(
    modes: Sequence[Mode],
    workers: Sequence[int],
    threads: Sequence[int],
    *,
    cpus: int,
    clients: int,
) -> list[Variant]:
    """Return the variants of a grid; without numbers those that a user would try first.

    That is a worker a CPU, and as many threads as give every client a place, wherever it lands.
    """
    made: list[Variant] = []
    for mode in modes:
        if mode is Mode.PREFORK:
            for count in workers or (cpus,):
                made.append(_prefork(count, 1))
                made += [
                    _prefork(count, each) for each in threads or (max(2, clients),) if each > 1
                ]
        else:
            made += [_plain(mode, count) for count in (workers if _grows(mode) else ()) or (1,)]
    return list({variant.name: variant for variant in made}.values())


def _grows(mode: Mode) -> bool:
    """Whether more workers are another variant of a mode, and not prefork under its name."""
    return mode in (Mode.THREAD, Mode.PROCESS)


def _prefork(workers: int, threads: int) -> Variant:
    flags = ["-m", "prefork", "-w", str(workers)]
    name = f"prefork {workers}"
    if threads > 1:
        flags += ["--threads", str(threads)]
        name += f"x{threads}"
    return Variant(name, Mode.PREFORK, workers, threads, tuple(flags))


def _plain(mode: Mode, workers: int) -> Variant:
    threads = 0 if _grows(mode) else 1
    if workers == 1:
        return Variant(str(mode), mode, 1, threads, ("-m", str(mode)))
    return Variant(
        f"{mode} {workers}", mode, workers, threads, ("-m", str(mode), "-w", str(workers))
    )
