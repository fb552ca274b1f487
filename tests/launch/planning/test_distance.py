"""What distance adds to the costs of messages and all-reduces."""

from __future__ import annotations

import pytest

from launch.local.wan import NO_WIRE, Wire
from launch.planning.distance import all_reduce_seconds, gloo_message, streamed_message
from launch.planning.simulator import MessageCost
from workers.transport.link_cost import Line, LinkCost

LINK = LinkCost(send=Line(1.0, 0.0), latency=Line(2.0, 0.0), receive=Line(3.0, 0.0), credit=Line(4.0, 0.0))
FAR = Wire(latency_s=10.0, bytes_per_s=100.0)


def test_a_streamed_message_takes_the_latency_and_occupies_the_wire() -> None:
    assert streamed_message(LINK, 200, NO_WIRE) == MessageCost(send=1, latency=2, receive=3, credit=4)
    assert streamed_message(LINK, 200, FAR) == MessageCost(send=1, wire=2, latency=12, receive=3, credit=14)


def test_a_message_of_gloo_waits_for_its_receiver_and_takes_a_round_trip() -> None:
    assert gloo_message(LINK, 200, NO_WIRE) == MessageCost(send=1, latency=2, receive=3)
    assert gloo_message(LINK, 200, FAR) == MessageCost(send=1, wire=2, request=10, latency=22, receive=3)


@pytest.mark.parametrize(
    ("replicas", "size", "round_trips"),
    [
        (2, 1000, 3),  # two segments each, and the way back
        (2, 24 << 20, 13),  # 24 segments of 1 MiB
        (4, 1000, 7),  # two segments each, three steps
    ],
)
def test_an_all_reduce_takes_round_trips_by_its_segments(replicas: int, size: int, round_trips: int) -> None:
    line = Line(1.0, 0.0)
    near, far = (all_reduce_seconds(line, replicas, size, wire) for wire in (NO_WIRE, FAR))
    assert near == 2 * (replicas - 1)
    on_the_wire = 2 * (replicas - 1) * size / replicas / 100
    assert far == pytest.approx(near + 20 * round_trips + on_the_wire)


def test_one_replica_has_nothing_to_reduce() -> None:
    assert all_reduce_seconds(Line(1.0, 0.0), 1, 1000, FAR) == 0.0
