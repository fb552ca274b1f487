"""The memory transport: the conformance suite in two threads, and what only it promises."""

import pytest
import torch

from dni_async.messages import TargetGradient
from tests.support.conformance import NAMES
from tests.support.conformance_runs import Outcome, over_channels
from workers.transport.base import PeerGone, TransportError
from workers.transport.memory import memory_channel


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    return over_channels(memory_channel)


@pytest.mark.parametrize("name", NAMES)
def test_conforms(outcome: Outcome, name: str) -> None:
    outcome.check(name)


def test_messages_are_passed_by_reference() -> None:
    sender, receiver = memory_channel(2)
    with sender, receiver:
        sent = TargetGradient(0, 0, torch.zeros(3))
        sender.send(sent, 0.0)
        assert sender.held_bytes() == 12
        assert receiver.recv(0.0) is sent
        assert sender.held_bytes() == 0


def test_a_closed_receiver_is_a_gone_peer() -> None:
    sender, receiver = memory_channel(1, sender_stage=3, receiver_stage=4)
    assert (sender.peer, receiver.peer) == (4, 3)
    receiver.close()
    with sender, pytest.raises(PeerGone):
        sender.ready()
    with pytest.raises(TransportError, match="closed"):
        receiver.recv(1.0)


def test_capacity_is_at_least_one() -> None:
    with pytest.raises(ValueError, match="capacity is 0"):
        memory_channel(0)
