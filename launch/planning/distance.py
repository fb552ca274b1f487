"""What a message and an all-reduce cost when hosts are far apart: latency and bandwidth on top of a profile.

Stages send over TCP connections on which messages stream: a message occupies the wire, and takes the latency.
torch's pipelines and DDP use gloo, whose sender starts when it has heard that the receiver waits, and whose
messages take a round trip of their own (measured, docs/LOG.md).
"""

from __future__ import annotations

import math

from launch.local.wan import Wire
from launch.planning.simulator import MessageCost
from launch.planning.simulator.whole import ring_all_reduce
from workers.transport.link_cost import Line, LinkCost

_SEGMENT_BYTES = 1 << 20
"""Largest part of an all-reduce that gloo sends at once."""


def streamed_message(link: LinkCost, size: float, wire: Wire) -> MessageCost:
    """Return the cost of a message between stages; with `NO_WIRE`, as the link was measured."""
    return MessageCost(
        send=link.send(size),
        wire=size / wire.bytes_per_s,
        latency=link.latency(size) + wire.latency_s,
        receive=link.receive(size),
        credit=link.credit(0) + wire.latency_s,
    )


def gloo_message(link: LinkCost, size: float, wire: Wire) -> MessageCost:
    """Return the cost of a message of torch's pipelines; with `NO_WIRE`, as the link was measured."""
    return MessageCost(
        send=link.send(size),
        wire=size / wire.bytes_per_s,
        request=wire.latency_s,
        latency=link.latency(size) + 2 * wire.latency_s,
        receive=link.receive(size),
    )


def all_reduce_seconds(line: Line, replicas: int, size: int, wire: Wire) -> float:
    """Return the seconds of an all-reduce of `size` bytes by gloo.

    Its ring works on segments, two for each replica or more, of which two are under way at a time.

    Args:
        line: seconds of one step of a ring, by the bytes that it sends, as measured on this machine.
    """
    seconds = ring_all_reduce(replicas, size, line.start, line.per_byte)
    if replicas < 2:
        return seconds
    segments = math.ceil(max(math.ceil(size / _SEGMENT_BYTES), 2 * replicas) / replicas)
    round_trips = segments * (replicas - 1) + 1
    on_the_wire = ring_all_reduce(replicas, size, 0.0, 1 / wire.bytes_per_s)
    return seconds + 2 * wire.latency_s * round_trips + on_the_wire
