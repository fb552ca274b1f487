"""Messages on a uplink, one after the other."""

from __future__ import annotations

from launch.planning.simulator import MessageCost
from launch.planning.simulator.channel import Channel, Uplink


def test_messages_follow_each_other_on_the_wire_and_each_takes_the_latency() -> None:
    channel = Channel(MessageCost(send=1, wire=3, latency=10), 4, Uplink())
    assert [channel.send(0.0), channel.send(1.0), channel.send(20.0)] == [1.0, 2.0, 21.0]
    assert list(channel.arrivals) == [1 + 3 + 10, 4 + 3 + 10, 21 + 3 + 10]


def test_both_directions_of_a_stage_share_its_wire() -> None:
    uplink = Uplink()
    down, up = (Channel(MessageCost(wire=wire_s), 4, uplink) for wire_s in (3, 5))
    down.send(0.0)
    up.send(0.0)
    assert (list(down.arrivals), list(up.arrivals)) == ([3.0], [8.0])


def test_a_credit_makes_room_when_it_is_back() -> None:
    channel = Channel(MessageCost(credit=2), 1, Uplink())
    channel.send(0.0)
    assert not channel.has_room(0.0)
    assert channel.ready(0.0)
    channel.take(1.0)
    assert channel.release(1.0) == 3.0
    assert not channel.has_room(2.9) and channel.has_room(3.0)
