from __future__ import annotations

import pytest

from launch.planning.simulator import StageCost, simulate_backprop, simulate_ddp
from launch.planning.simulator.whole import ring_all_reduce


def test_backprop_does_one_thing_after_the_other_and_is_never_idle() -> None:
    forecast = simulate_backprop(StageCost(forward=1, backward=2, update=0.5, load=0.25))
    assert (forecast.period, forecast.bubble) == (3.75, 0.0)


def test_a_replica_waits_while_gradients_are_summed() -> None:
    forecast = simulate_ddp(StageCost(forward=1, backward=2, update=0.5, load=0.5), 3, all_reduce=1.0)
    assert forecast.period == 5.0
    assert forecast.busy == [4.0, 4.0, 4.0]
    assert forecast.bubble == pytest.approx(0.2)


def test_a_ring_sends_a_share_of_the_bytes_from_each_to_the_next_twice_round() -> None:
    assert ring_all_reduce(1, 1000, 5.0, 0.1) == 0.0
    assert ring_all_reduce(2, 1000, 5.0, 0.1) == 2 * (5 + 50)
    assert ring_all_reduce(4, 1000, 5.0, 0.1) == 6 * (5 + 25)
