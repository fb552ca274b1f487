"""Ends that pass everything on keep every promise of the ends that they are around."""

from __future__ import annotations

import pytest

from tests.workers.transport.conformance import CAPACITY, NAMES, Link, Outcome, Side, run_in_threads
from workers.transport.memory import memory_channel
from workers.transport.passing import PassingReceiver, PassingSender


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    links: list[list[Link]] = [[], []]
    for capacity in (CAPACITY, 1):
        down, down_end = memory_channel(capacity, 0, 1)
        up, up_end = memory_channel(capacity, 1, 0)
        links[0].append(Link(PassingSender(down), PassingReceiver(up_end), capacity))
        links[1].append(Link(PassingSender(up), PassingReceiver(down_end), capacity))
    return run_in_threads([Side(rank, *links[rank], print) for rank in (0, 1)])


@pytest.mark.parametrize("name", NAMES)
def test_conforms(outcome: Outcome, name: str) -> None:
    outcome.check(name)
