"""How many threads a worker adds when all it has are held up."""

import select
import socket
import threading

import pytest

from forkserve.door import GRACE
from forkserve.service import Service
from forkserve.stop import Stop
from forkserve.strategies.threaded import STEP, STUCK_TICKS, Lanes, count_surplus, lanes_to_add
from tests.unit.fakes import make_lanes, open_streams, take_slot


@pytest.mark.parametrize(
    ("stuck_ticks", "lanes", "most", "added"),
    [
        pytest.param(0, 2, 100, 0, id="nobody is stuck"),
        pytest.param(STUCK_TICKS - 1, 2, 100, 0, id="one tick is no proof"),
        pytest.param(STUCK_TICKS, 2, 100, 2, id="twice as many"),
        pytest.param(STUCK_TICKS + 5, 8, 100, 8, id="and again"),
        pytest.param(STUCK_TICKS, 64, 1024, STEP, id="but not too many at a time"),
        pytest.param(STUCK_TICKS, 60, 64, 4, id="up to the bound"),
        pytest.param(STUCK_TICKS, 64, 64, 0, id="at the bound"),
        pytest.param(STUCK_TICKS, 65, 64, 0, id="over the bound"),
        pytest.param(STUCK_TICKS, 1, 1, 0, id="a single one"),
    ],
)
def test_how_many_lanes_to_add(stuck_ticks: int, lanes: int, most: int, added: int) -> None:
    """Threads double while every one of them is held up, by a step and to a bound at most."""
    assert lanes_to_add(stuck_ticks, lanes, most) == added


def test_a_lane_that_is_held_up_is_not_sent_away() -> None:
    """Who serves what he served a second ago is needed, and so is who is new."""
    held, new = make_lanes(50), make_lanes(50)
    before = dict.fromkeys(held, 1)
    assert count_surplus(before, before | dict.fromkeys(new, 2)) == 0


def test_lanes_that_are_free_are_sent_away_but_for_a_few() -> None:
    """Who has another connection than a second ago, or none, is not held up."""
    lanes = make_lanes(50)
    before = dict.fromkeys(lanes, 1)
    assert count_surplus(before, {lane: i % 2 * 2 for i, lane in enumerate(lanes)}) == 46


def test_few_lanes_are_left_alone() -> None:
    """The few that may wait at the door stay."""
    lanes = make_lanes(4)
    assert count_surplus(dict.fromkeys(lanes, 1), dict.fromkeys(lanes, 0)) == 0


def test_the_gate_opens_whoever_has_closed_the_door() -> None:
    """At a stop those who wait are let go, also if one of them was first to close the door."""
    service = Service([], lambda _: None, Stop(), limit=4, is_shared=False)
    service.open(take_slot())
    lanes = Lanes(service, 4)
    service.stop.request()
    lanes.arrive()
    lanes._door.is_closing = True
    lanes._close_door(0.0)
    lanes._close_door(GRACE)
    assert select.select([lanes._gate.reader], [], [], 0)[0]
    lanes._gate.close()
    lanes._door_wait.close()
    service.close()


def test_nobody_is_served_before_the_worker_is_ready() -> None:
    """A handler that ends its process is not taken for a worker that could not start."""
    (listener,) = open_streams("127.0.0.1:0")
    stop, served = Stop(), threading.Event()

    def serve(_: object) -> None:
        served.set()
        client.close()
        stop.request()
        service.wakeup.ring()

    service = Service([listener], serve, stop, limit=4, is_shared=False)
    service.open(take_slot())
    early = []
    service.say_ready = lambda: early.append(served.wait(0.1))
    client = socket.create_connection(listener.socket.getsockname(), 5)
    Lanes(service, 4).run()
    service.close()
    listener.close()
    assert early == [False]
    assert served.is_set()
