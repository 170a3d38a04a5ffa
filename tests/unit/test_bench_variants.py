"""Which modes, workers and threads are compared."""

from collections.abc import Sequence

from forkserve.bench.variants import Variant, make_variants
from forkserve.settings import Mode


def make(
    modes: Sequence[Mode] = tuple(Mode),
    workers: Sequence[int] = (),
    threads: Sequence[int] = (),
    *,
    cpus: int = 2,
    clients: int = 64,
) -> dict[str, Variant]:
    """Return the variants by their names."""
    made = make_variants(modes, workers, threads, cpus=cpus, clients=clients)
    names = {variant.name: variant for variant in made}
    assert len(names) == len(made)
    return names


def test_without_numbers_each_mode_is_tried_as_a_user_would() -> None:
    """All four modes, prefork with a worker a CPU and with a place for each client."""
    assert list(make()) == ["iterative", "thread", "process", "prefork 2", "prefork 2x64"]


def test_threads_are_so_many_that_each_client_has_a_place() -> None:
    """Also if all of them land in one worker."""
    assert "prefork 2x65" in make(clients=65)
    assert "prefork 8x65" in make(cpus=8, clients=65)


def test_one_client_still_gets_two_threads() -> None:
    """With threads means more than one, else it would be prefork twice."""
    assert list(make([Mode.PREFORK], clients=1)) == ["prefork 2", "prefork 2x2"]


def test_the_numbers_given_make_a_grid() -> None:
    """Every number of workers with every number of threads, and without threads."""
    assert list(make([Mode.PREFORK], (1, 4), (8, 32))) == [
        "prefork 1",
        "prefork 1x8",
        "prefork 1x32",
        "prefork 4",
        "prefork 4x8",
        "prefork 4x32",
    ]


def test_one_thread_is_no_variant_of_its_own() -> None:
    """`--threads 1` is prefork as it is, and is not measured twice."""
    assert list(make([Mode.PREFORK], threads=(1,))) == ["prefork 2"]


def test_more_workers_are_tried_in_the_modes_in_which_they_mean_something() -> None:
    """More workers of the iterative mode would be prefork under its name."""
    assert list(make([Mode.ITERATIVE, Mode.THREAD, Mode.PROCESS], (1, 3))) == [
        "iterative",
        "thread",
        "thread 3",
        "process",
        "process 3",
    ]


def test_the_flags_make_what_the_name_says() -> None:
    """They are what forkserve run takes."""
    made = make(workers=(3,), threads=(8,))
    assert {name: variant.flags for name, variant in made.items()} == {
        "iterative": ("-m", "iterative"),
        "thread 3": ("-m", "thread", "-w", "3"),
        "process 3": ("-m", "process", "-w", "3"),
        "prefork 3": ("-m", "prefork", "-w", "3"),
        "prefork 3x8": ("-m", "prefork", "-w", "3", "--threads", "8"),
    }


def test_threads_share_a_process() -> None:
    """Whatever has one connection a process at a time does not lose others by a crash."""
    shared = {name for name, variant in make().items() if variant.shares_processes()}
    assert shared == {"thread", "prefork 2x64"}


def test_places_are_how_many_connections_are_served_at_a_time() -> None:
    """Where each connection gets a thread or a process of its own there is no number."""
    assert {name: variant.places() for name, variant in make().items()} == {
        "iterative": 1,
        "thread": None,
        "process": None,
        "prefork 2": 2,
        "prefork 2x64": 128,
    }
