"""What a supervisor makes for its stage."""

from __future__ import annotations

import pytest

from tests.support.conformance_runs import nothing_left_open
from workers.recovery.stable_storage import StableStorage


@pytest.mark.parametrize(("rank", "neighbours"), [(0, [1]), (1, [0, 2]), (2, [1])])
def test_there_is_a_listener_and_an_outbox_for_every_neighbour(rank: int, neighbours: list[int]) -> None:
    with nothing_left_open():
        stable = StableStorage.create(rank, 3, 5)
        assert list(stable.listeners) == list(stable.send_logs) == neighbours
        assert [listener.peer for listener in stable.listeners.values()] == neighbours
        assert [send_log.capacity for send_log in stable.send_logs.values()] == [5] * len(neighbours)
        for _ in range(2):
            stable.close()


def test_a_stage_alone_needs_neither() -> None:
    stable = StableStorage.create(0, 1, 5)
    assert not stable.listeners and not stable.send_logs
    stable.close()
