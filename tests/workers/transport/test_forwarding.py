"""Channel ends that pass everything on keep every promise of the ends that they are around."""

from __future__ import annotations

import pytest

from tests.support.conformance import NAMES
from tests.support.conformance_runs import Outcome, over_channels
from workers.transport.base import Receiver, Sender
from workers.transport.forwarding import ForwardingReceiver, ForwardingSender
from workers.transport.memory import memory_channel


def passing_channel(capacity: int, sender_stage: int, receiver_stage: int) -> tuple[Sender, Receiver]:
    sender, receiver = memory_channel(capacity, sender_stage, receiver_stage)
    return ForwardingSender(sender), ForwardingReceiver(receiver)


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    return over_channels(passing_channel)


@pytest.mark.parametrize("name", NAMES)
def test_conforms(outcome: Outcome, name: str) -> None:
    outcome.check(name)
