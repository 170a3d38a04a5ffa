"""Which variant is recommended, and how sure that is, on figures that are given."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forkserve.bench.measured import Measured, Profile
from forkserve.bench.recommend import Recommendation, recommend
from forkserve.bench.rounds import Turn
from forkserve.bench.variants import Variant, make_variants
from forkserve.settings import Mode

ITERATIVE, THREAD, PROCESS, PREFORK, PREFORK_THREADS = make_variants(
    tuple(Mode), (), (32,), cpus=2, clients=64
)
VARIANTS = (ITERATIVE, THREAD, PROCESS, PREFORK, PREFORK_THREADS)

SLEEPING = Profile(latency=0.05, server=0.0002, client=0.0001)
COMPUTING = Profile(latency=0.005, server=0.0048, client=0.0001)
SHORT = Profile(latency=0.0002, server=0.00009, client=0.00009)

QUIET = Turn(
    ok=1000,
    failures={},
    seconds=1.0,
    cpu=0.1,
    p50=0.01,
    p99=0.02,
    p999=0.03,
    generator=0.2,
    generator_cpu=0.2,
    elsewhere=0.0,
    memory=20_000_000,
    slowest=0.04,
)


def turn(rate: float, **others: Any) -> Turn:
    """Return a turn of one second with so many good answers."""
    return replace(QUIET, ok=round(rate), **others)


def measured(variant: Variant, *rates: float, at: int = 64, **others: Any) -> Measured:
    """Return what a variant did in as many rounds as there are rates."""
    return Measured(variant, {at: [turn(rate, **others) for rate in rates]})


def steady(variant: Variant, rate: float, **others: Any) -> Measured:
    """Return five rounds that hardly differ."""
    rates = (rate, rate * 1.01, rate * 0.99, rate, rate * 1.005)
    return measured(variant, *rates, **others)


def advise(
    *found: Measured, profile: Profile | None = SHORT, idle: int = 0, is_open_loop: bool = False
) -> Recommendation:
    """Return the recommendation, which there must be."""
    recommendation = recommend(found, profile, idle=idle, is_open_loop=is_open_loop)
    assert recommendation is not None
    return recommendation


def said(recommendation: Recommendation) -> str:
    """Return all that it says."""
    return "\n".join((*recommendation.reasons, recommendation.sureness, *recommendation.warnings))


# -- by what the handler does


def test_a_handler_that_sleeps_wants_threads() -> None:
    """Waiting is cheapest in a thread, and the reason says that it waits."""
    advice = advise(
        steady(ITERATIVE, 20, p99=3.2),
        steady(THREAD, 1250),
        steady(PROCESS, 700),
        steady(PREFORK, 40, p99=1.6),
        steady(PREFORK_THREADS, 1240),
        profile=SLEEPING,
    )
    assert advice.variant is THREAD
    assert "99% of a connection is spent waiting, 0% on the processor" in advice.reasons[0]
    assert advice.reasons[0].endswith("threads")


def test_a_handler_that_computes_wants_a_worker_a_core() -> None:
    """Python computes on one core a process, so there is a worker for each."""
    advice = advise(
        steady(ITERATIVE, 200),
        steady(THREAD, 190),
        steady(PROCESS, 330),
        steady(PREFORK, 400),
        steady(PREFORK_THREADS, 390),
        profile=COMPUTING,
    )
    assert advice.variant is PREFORK
    assert "96% on the processor" in advice.reasons[0]
    assert advice.reasons[0].endswith("prefork, 2 workers")


def test_the_flags_are_those_to_type() -> None:
    """What is recommended comes with its flags, threads included."""
    advice = advise(steady(PREFORK, 500), steady(PREFORK_THREADS, 1000))
    assert advice.variant.flags == ("-m", "prefork", "-w", "2", "--threads", "32")


def test_the_most_clients_at_a_time_decide() -> None:
    """A variant that is the best for one client alone is not for many."""
    thread, prefork = steady(THREAD, 900, at=1), steady(PREFORK, 500, at=1)
    thread.turns |= steady(THREAD, 1000).turns
    prefork.turns |= steady(PREFORK, 3000).turns
    assert advise(thread, prefork).variant is PREFORK


# -- crashes


def crashing(variant: Variant, rate: float, deaths: int, lost: int) -> Measured:
    """Return five rounds in which workers died and took clients with them."""
    one = measured(variant, *[rate] * 4)
    one.turns[64].append(turn(rate, failures={"reset": lost}))
    one.deaths = deaths
    return one


def test_a_handler_that_crashes_does_not_get_what_loses_more() -> None:
    """A faster mode that loses thirty clients a crash is not recommended, and the loss is named."""
    advice = advise(
        crashing(THREAD, 5000, deaths=10, lost=300),
        crashing(PROCESS, 800, deaths=10, lost=10),
        crashing(PREFORK, 1000, deaths=10, lost=10),
        crashing(PREFORK_THREADS, 4000, deaths=10, lost=150),
    )
    assert advice.variant is PREFORK
    assert (
        "workers crashed; clients lost for each crash:"
        " thread 30.0, process 1.0, prefork 2 1.0, prefork 2x32 15.0;"
        " what loses more is left out"
    ) in advice.reasons


def test_a_few_more_lost_in_a_shared_process_are_not_a_miscount() -> None:
    """A light load loses few clients in threads; a heavier one will lose more."""
    advice = advise(
        crashing(THREAD, 1000, deaths=30, lost=36),
        crashing(PREFORK, 950, deaths=20, lost=22),
        profile=SLEEPING,
    )
    assert advice.variant is PREFORK


def test_crashes_weigh_more_than_waiting_where_modes_perform_alike() -> None:
    """Even with no loss counted beyond the least, threads are not what a crashing handler gets."""
    advice = advise(
        crashing(THREAD, 1000, deaths=10, lost=10),
        crashing(PREFORK, 1000, deaths=10, lost=10),
        profile=SLEEPING,
    )
    assert advice.variant is PREFORK


def test_a_mode_that_happened_not_to_crash_is_not_left_out() -> None:
    """Without a crash a mode has no loss to be judged by."""
    advice = advise(crashing(THREAD, 5000, deaths=10, lost=300), steady(PREFORK, 1000))
    assert advice.variant in (THREAD, PREFORK)
    assert "clients lost for each crash: thread 30.0" in said(advice)


# -- idle connections


def test_idle_connections_are_for_threads() -> None:
    """The memory that each takes is named, and what was excluded with its reason."""
    thread, threads = steady(THREAD, 3000), steady(PREFORK_THREADS, 3050)
    thread.idle_each, threads.idle_each = 20e3, 24e3
    process = Measured(PROCESS, excluded="5000 processes of 6.0 MB each would take 30.0 GB")
    prefork = Measured(PREFORK, excluded="none is served: 5000 idle connections take all its 2")
    advice = advise(thread, threads, process, prefork, idle=5000)
    assert advice.variant is THREAD
    assert "5 000 idle connections take 20.0 kB each in thread: 100 MB" in advice.reasons
    assert "5 000 idle connections take 24.0 kB each in prefork 2x32: 120 MB" in advice.reasons
    assert f"process: {process.excluded}" in advice.reasons
    assert f"prefork 2: {prefork.excluded}" in advice.reasons


@pytest.mark.parametrize("idle_each", [0.0, -4096.0])
def test_idle_connections_that_take_nothing_measurable(idle_each: float) -> None:
    """What a server gives back meanwhile may be more than they take: no number of bytes then."""
    thread = steady(THREAD, 3000)
    thread.idle_each = idle_each
    reasons = advise(thread, idle=3).reasons
    assert "3 idle connections take too little to be measured in thread" in reasons


def test_all_excluded_is_no_recommendation() -> None:
    """Where nothing could hold the connections, nothing is recommended."""
    assert recommend([Measured(PREFORK, excluded="no place")], SHORT, idle=5000) is None


# -- ties and noise


def test_a_tie_is_decided_by_isolation() -> None:
    """Of two that perform alike the one is taken whose crashes stay apart, and that is said."""
    advice = advise(steady(THREAD, 1010), steady(PREFORK, 1000), steady(ITERATIVE, 1000))
    assert advice.variant is PREFORK
    assert advice.sureness.startswith("fairly sure: thread performs alike")


def test_a_tie_of_handlers_that_wait_is_decided_for_threads() -> None:
    """Of two that perform alike the one is taken in which waiting costs least."""
    advice = advise(steady(THREAD, 1000), steady(PREFORK_THREADS, 1010), profile=SLEEPING)
    assert advice.variant is THREAD
    assert "prefork 2x32 performs alike" in advice.sureness
    assert "prefork 2x32 is 1% faster and isolates crashes" in said(advice)


def test_the_iterative_server_is_not_recommended_where_another_performs_alike() -> None:
    """One slow client would hold up all the others, and that is said."""
    advice = advise(steady(ITERATIVE, 1030), steady(PROCESS, 1000))
    assert advice.variant is PROCESS
    assert "iterative is 3% faster, but one slow client holds up all the others" in said(advice)


def test_a_clear_lead_is_sure() -> None:
    """A lead in every round is sure, and comes with its ratio."""
    advice = advise(steady(THREAD, 1000), steady(PREFORK, 2000))
    assert advice.sureness == "sure: throughput is 2.000 [2.000 2.000] times thread's in 5 rounds"
    assert "thread is 50% slower" in advice.reasons


def test_what_isolates_crashes_is_said_to() -> None:
    """A slower rival is named with what speaks for it."""
    advice = advise(steady(THREAD, 4000), steady(PROCESS, 1000))
    assert "process is 4.0 times slower and isolates crashes" in advice.reasons


def test_noise_is_named_instead_of_a_lead() -> None:
    """Rounds that contradict each other decide nothing, and no figure pretends otherwise."""
    advice = advise(
        measured(THREAD, 1000, 3000, 800, 2500, 1000),
        measured(PREFORK, 2000, 900, 2200, 800, 1100),
    )
    assert advice.sureness.startswith("not sure: the machine was too noisy to tell it from")
    assert "in 5 rounds)" in advice.sureness


def test_rounds_that_differ_are_named() -> None:
    """The user learns which figures of the tables are not to be trusted, and how far apart."""
    advice = advise(measured(THREAD, 1000, 1500, 1000), measured(PREFORK, 1000, 1010, 1000))
    assert advice.warnings == (
        "rounds differ by more than 25%: thread at 64, 1 000 to 1 500 a second",
    )


def test_only_the_three_worst_are_named() -> None:
    """A long list of differing rounds is cut."""
    advice = advise(*[measured(one, 1000, 2000, 1000) for one in VARIANTS])
    assert advice.warnings[-1].endswith("; and 2 more")
    assert advice.warnings[-1].count("a second") == 3


def test_a_busy_machine_is_named() -> None:
    """CPUs that others use are a reason to doubt."""
    advice = advise(steady(THREAD, 1000, elsewhere=1.3))
    assert "1.3 CPUs were busy with something else: a quiet machine tells more" in advice.warnings


def test_two_rounds_are_too_few_to_be_sure() -> None:
    """With two rounds even a manifold lead is not called sure."""
    advice = advise(measured(THREAD, 100, 100), measured(PREFORK, 1000, 1000))
    assert advice.sureness == "not sure: the rounds are too few (2)"


def test_a_profile_that_is_not_known_is_not_made_up() -> None:
    """Without the measurement of one client alone there is no word of waiting or computing."""
    assert "is spent waiting" not in said(advise(steady(THREAD, 1000), profile=None))


# -- which figure decides


def test_where_the_load_generator_is_the_limit_cpu_decides() -> None:
    """All are equally fast then, so what each costs is compared, and that is said."""
    advice = advise(
        steady(THREAD, 10_000, cpu=8.0, generator=0.99),
        steady(PREFORK, 10_000, cpu=4.0, generator=0.98),
    )
    assert advice.variant is PREFORK
    assert "thread is 100% dearer" in advice.reasons
    assert advice.sureness.startswith(
        "sure: thread's CPU a connection is 2.000 [2.000 2.000] times prefork 2's"
    )
    assert advice.warnings[0].startswith(
        "the load generator was the limit for thread, prefork 2: these could do more"
    )


def test_a_cheap_but_slow_one_does_not_win_where_the_generator_is_the_limit() -> None:
    """What answers a tenth as many is not recommended for being cheaper."""
    advice = advise(
        steady(THREAD, 10_000, cpu=2.0, generator=0.99),
        steady(PREFORK, 1_000, cpu=0.1, generator=0.2),
    )
    assert advice.variant is THREAD
    assert "prefork 2 is 10.0 times slower" in said(advice)


def test_who_could_have_done_more_is_not_called_slow() -> None:
    """Where the generator held both back, their rates say nothing of them."""
    advice = advise(
        steady(THREAD, 10_000, cpu=4.0, generator=0.99),
        steady(PREFORK, 8_000, cpu=1.6, generator=0.99),
    )
    assert advice.variant is PREFORK
    assert "slower" not in said(advice)


def test_at_a_rate_the_tail_decides() -> None:
    """All do what falls due, so the late are compared."""
    advice = advise(
        steady(THREAD, 500, p99=0.002),
        steady(PREFORK, 500, p99=0.006),
        is_open_loop=True,
    )
    assert advice.variant is THREAD
    assert "prefork 2 is 3.0 times later at p99 and isolates crashes" in advice.reasons
    assert advice.sureness.startswith("sure: prefork 2's p99 is 3.000 [")


# -- starving


def test_a_mode_in_which_clients_starve_is_left_out() -> None:
    """Throughput does not excuse clients that wait a hundred times as long as elsewhere."""
    advice = advise(
        steady(PREFORK, 3000, p50=0.001, p99=2.0, slowest=0.1),
        steady(THREAD, 2000, p50=0.01, p99=0.02),
    )
    assert advice.variant is THREAD
    assert "prefork 2 makes some clients wait 2.00 s (the best mode: 20.0 ms)" in advice.reasons


def test_on_kept_connections_the_slowest_shows_who_starves() -> None:
    """Two clients that are served all the time have a fine p99; who got nothing shows anyway."""
    advice = advise(
        steady(PREFORK, 9000, p50=0.0001, p99=0.0002, slowest=0.98),
        steady(THREAD, 5000, p50=0.001, p99=0.004, slowest=0.01),
    )
    assert advice.variant is THREAD
    assert "prefork 2 makes some clients wait 980 ms (the best mode: 4.00 ms)" in advice.reasons


def test_one_that_is_slow_for_everybody_is_called_slow() -> None:
    """Where all clients wait alike nobody starves: the mode is slower, by so much."""
    advice = advise(
        steady(PROCESS, 300, p50=0.2, p99=0.34),
        steady(PREFORK, 9000, p50=0.006, p99=0.014),
    )
    assert advice.variant is PREFORK
    assert "starve" not in said(advice)
    assert "process is 30.0 times slower" in advice.reasons


def test_all_starving_still_gives_the_best_of_them() -> None:
    """A soonest among the late is always left."""
    advice = advise(steady(PREFORK, 100, p50=1.0, p99=2.0), steady(THREAD, 50, p50=1.0, p99=2.1))
    assert advice.variant is PREFORK


# -- what is missing


def test_nothing_measured_is_no_recommendation() -> None:
    """Before the first turn there is nothing to say."""
    assert recommend([], SHORT) is None
    assert recommend([Measured(one) for one in VARIANTS], None) is None


def test_an_interruption_in_the_middle_of_a_round() -> None:
    """Rounds that one has and the other lacks are not compared."""
    advice = advise(measured(THREAD, 1000, 1000, 1000, 9000), measured(PREFORK, 2000, 2000, 2000))
    assert advice.variant is PREFORK
    assert "thread is 50% slower" in advice.reasons


def test_modes_not_reached_before_an_interruption_make_it_unsure() -> None:
    """What has not been measured may be better."""
    advice = advise(steady(THREAD, 1000), Measured(PREFORK))
    assert advice.variant is THREAD
    assert advice.sureness == "not sure: some modes have not been measured"


def test_a_load_that_only_some_have_got_does_not_decide() -> None:
    """Interrupted in the first turns of the last load, the one before it is the one to compare."""
    thread = steady(THREAD, 1000, at=8)
    thread.turns[64] = [turn(1000)]
    advice = advise(thread, steady(PREFORK, 2000, at=8))
    assert advice.variant is PREFORK


def test_one_mode_alone_is_not_called_the_only_one_that_could() -> None:
    """Who measures one mode only hears that nothing was compared."""
    advice = advise(steady(THREAD, 1000))
    assert advice.sureness == "not compared: no other mode was measured"


def test_the_only_one_that_could_serve_is_sure() -> None:
    """Where all others were excluded there is no doubt."""
    prefork = Measured(PREFORK, excluded="none is served")
    assert advise(steady(THREAD, 1000), prefork).sureness == "sure: no other mode comes near"


# -- whatever the figures are

numbers = st.floats(0, 1e6, allow_nan=False) | st.just(math.nan)
turns = st.builds(
    Turn,
    ok=st.integers(0, 10**6),
    failures=st.dictionaries(st.sampled_from(["reset", "unanswered"]), st.integers(1, 99)),
    seconds=st.floats(0, 100),
    cpu=st.floats(-0.1, 100),
    p50=numbers,
    p99=numbers,
    p999=numbers,
    generator=st.floats(0, 1),
    generator_cpu=st.floats(0, 100),
    elsewhere=st.floats(0, 64),
    memory=st.integers(0, 10**12),
    slowest=numbers,
    delay=st.floats(0, 100),
)
profiles = st.none() | st.builds(Profile, *[st.floats(0, 10)] * 3, delay=st.floats(0, 10))


@st.composite
def findings(draw: st.DrawFn) -> Sequence[Measured]:
    """Return figures of some of the variants, for some of the loads, in any number of rounds."""
    return [
        Measured(
            variant,
            draw(st.dictionaries(st.sampled_from([1, 8, 64]), st.lists(turns, max_size=4))),
            deaths=draw(st.integers(0, 3)),
            served_by=tuple(draw(st.lists(st.integers(0, 99), max_size=3))),
            excluded=draw(st.sampled_from(["", "", "no place"])),
            idle_each=draw(st.floats(0, 1e9)),
        )
        for variant in draw(st.lists(st.sampled_from(VARIANTS), unique=True))
    ]


@settings(deadline=None, max_examples=150)
@given(findings(), profiles, st.sampled_from([0, 5000]), st.booleans())
def test_any_figures_give_an_able_variant_or_none(
    found: Sequence[Measured], profile: Profile | None, idle: int, is_open_loop: bool
) -> None:
    """It never raises, and never recommends what has no figures."""
    able = [one.variant for one in found if not one.excluded and any(one.turns.values())]
    advice = recommend(found, profile, idle=idle, is_open_loop=is_open_loop)
    assert advice is None if not able else advice is not None and advice.variant in able
