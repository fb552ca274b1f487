"""What every transport must do, as facts that both ends check together, in threads or in processes.

A fact is a function that both sides run at the same time, each with its own `Side`. There are two links:
`wide` holds several messages per channel, `narrow` one. The last two facts use the links up.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import torch

from dni_async.messages import Marker, MarkerKind, Message, TargetGradient
from tests.support.conformance_messages import assert_same, message, special_messages
from workers.transport.base import (
    Deadline,
    PeerGone,
    Receiver,
    Sender,
    TransportError,
    TransportTimeout,
    wait_any,
)

CAPACITY = 3


TEST_TIMEOUT_S = 20.0
"""Seconds after which something that should happen did not."""


@dataclass
class Link:
    """Both channels of a link, as one side holds them."""

    tx: Sender
    rx: Receiver
    capacity: int
    slack: int = 0
    """Messages that this transport may hold beyond its capacity."""

    def close(self) -> None:
        self.tx.close()
        self.rx.close()


@dataclass
class Side:
    """One of the two sides."""

    rank: int
    wide: Link
    narrow: Link
    barrier: Callable[[], object]


def exchange(link: Link, outgoing: list[Message], expected: list[Message], delay: float = 0.0) -> None:
    """As `converse`, with messages that are there already."""
    converse(link, iter(outgoing), iter(expected), (len(outgoing), len(expected)), delay)


def converse(
    link: Link, out: Iterator[Message], wanted: Iterator[Message], counts: tuple[int, int], delay: float
) -> None:
    """Send and receive at once, as an event loop does; sleep only when neither is possible."""
    rng, (sends, receives) = random.Random(counts[0]), counts
    while sends or receives:
        moved = False
        if receives and link.rx.poll():
            assert_same(link.rx.recv(0.0), next(wanted))
            time.sleep(rng.random() * delay)
            link.rx.release()
            receives, moved = receives - 1, True
        if sends and link.tx.ready():
            link.tx.send(next(out), 0.0)
            sends, moved = sends - 1, True
        if not moved:
            channels = [*([link.rx] if receives else []), *([link.tx] if sends else [])]
            assert wait_any(channels, TEST_TIMEOUT_S), f"stuck with {sends} to send and {receives} to receive"


def comes_ready(tx: Sender, timeout: float) -> bool:
    deadline = Deadline(timeout)
    while not tx.ready():
        if not wait_any([tx], deadline.left()):
            return tx.ready()
    return True


def seconds_until_gone(channel: Sender | Receiver, look: Callable[[], object]) -> float:
    """Sleeping on the descriptor alone: it has to become readable."""
    begin, deadline = time.monotonic(), Deadline(TEST_TIMEOUT_S)
    while True:
        try:
            look()
        except PeerGone:
            return time.monotonic() - begin
        assert wait_any([channel], deadline.left()), "nobody noticed that the peer is gone"


def content_arrives_equal(side: Side) -> None:
    exchange(side.wide, special_messages(), special_messages())
    assert side.wide.tx.sent == len(special_messages())


def an_empty_channel_times_out(side: Side) -> None:
    assert not side.wide.rx.poll()
    begin = time.monotonic()
    with pytest.raises(TransportTimeout):
        side.wide.rx.recv(0.1)
    assert 0.09 < time.monotonic() - begin < 2.0
    with pytest.raises(TransportError):
        side.wide.rx.release()
    assert not side.wide.rx.peer_gone() and not side.wide.tx.peer_gone()
    side.barrier()


def capacity_bounds_wide(side: Side) -> None:
    capacity_bounds(side, side.wide)


def capacity_bounds_narrow(side: Side) -> None:
    capacity_bounds(side, side.narrow)


def capacity_bounds(side: Side, link: Link) -> None:
    """Full after `capacity` messages; room only after a release."""
    if side.rank == 1:
        side.barrier()
        first = link.rx.recv(TEST_TIMEOUT_S)
        side.barrier()  # received, not released: still full
        side.barrier()
        assert_same(first, TargetGradient(0, 0, torch.full((50,), 0.0)))
        link.rx.release()
        for count in itertools.count(1):
            got = link.rx.recv(TEST_TIMEOUT_S)
            link.rx.release()
            if isinstance(got, Marker):
                return
            assert got.step == count
    count = 0
    while comes_ready(link.tx, 0.3):
        link.tx.send(TargetGradient(count, 0, torch.full((50,), float(count))), 0.0)
        count += 1
        assert count <= link.capacity + link.slack
    assert count >= link.capacity
    with pytest.raises(TransportTimeout):
        link.tx.send(message(0), 0.05)
    assert link.tx.held_bytes() >= 0
    side.barrier()
    side.barrier()
    assert not comes_ready(link.tx, 0.2)
    side.barrier()
    assert comes_ready(link.tx, TEST_TIMEOUT_S)
    link.tx.send(Marker(MarkerKind.EPOCH, count, 0), TEST_TIMEOUT_S)


def many_messages_both_ways(side: Side) -> None:
    """300 random ones each way, at random moments."""
    mine, theirs = (range(1000 * rank, 1000 * rank + 300) for rank in (side.rank, 1 - side.rank))
    exchange(side.wide, [message(i) for i in mine], [message(i) for i in theirs], delay=0.002)


def ten_thousand_messages_both_ways(side: Side) -> None:
    """Of random kinds, sizes, dtypes and delays: once, in order, every element equal."""
    count = 10_000
    mine, theirs = (
        map(message, range(rank * count, (rank + 1) * count)) for rank in (side.rank, 1 - side.rank)
    )
    converse(side.wide, mine, theirs, (count, count), delay=5e-4)


def many_messages_one_at_a_time(side: Side) -> None:
    mine, theirs = (range(1000 * rank, 1000 * rank + 50) for rank in (side.rank, 1 - side.rank))
    exchange(side.narrow, [message(i) for i in mine], [message(i) for i in theirs])


def closing_loses_nothing(side: Side) -> None:
    """What was sent before `close` arrives, then the end; on either channel."""
    for speaker in (0, 1):
        side.barrier()
        if side.rank == speaker:
            for i in range(CAPACITY):
                side.wide.tx.send(message(i), TEST_TIMEOUT_S)
            side.wide.tx.close()
            side.wide.tx.close()
            continue
        for i in range(CAPACITY):
            assert_same(side.wide.rx.recv(TEST_TIMEOUT_S), message(i))
            side.wide.rx.release()
        assert seconds_until_gone(side.wide.rx, side.wide.rx.poll) < 5.0
        assert side.wide.rx.peer_gone()
        with pytest.raises(PeerGone):
            side.wide.rx.recv(TEST_TIMEOUT_S)
    side.barrier()
    side.wide.close()
    with pytest.raises(TransportError):
        side.wide.rx.poll()
    with pytest.raises(TransportError):
        side.wide.tx.ready()


def a_dead_peer_is_noticed(side: Side) -> None:
    """SIGKILL: what it sent is still there, then both channels say so within 5 seconds."""
    link = side.narrow
    if side.rank == 1:
        link.tx.send(message(2), TEST_TIMEOUT_S)
        side.barrier()
        os.kill(os.getpid(), signal.SIGKILL)
    while not link.rx.poll():
        assert wait_any([link.rx], TEST_TIMEOUT_S)
    side.barrier()
    assert_same(link.rx.recv(TEST_TIMEOUT_S), message(2))
    link.rx.release()
    assert seconds_until_gone(link.rx, link.rx.poll) < 5.0
    assert seconds_until_gone(link.tx, link.tx.ready) < 5.0
    assert link.rx.peer_gone() and link.tx.peer_gone()
    for call in (lambda: link.tx.send(message(0), TEST_TIMEOUT_S), lambda: link.rx.recv(TEST_TIMEOUT_S)):
        with pytest.raises(PeerGone):
            call()
    link.close()


FACTS = (
    content_arrives_equal,
    an_empty_channel_times_out,
    capacity_bounds_wide,
    capacity_bounds_narrow,
    many_messages_both_ways,
    many_messages_one_at_a_time,
    closing_loses_nothing,
)


NAMES = [fact.__name__ for fact in FACTS]


KILLED = a_dead_peer_is_noticed.__name__
