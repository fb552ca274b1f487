from __future__ import annotations

import pytest

from launch.planning.simulator import MessageCost, StageCost, simulate_pipelined
from launch.planning.simulator.pipelined import Op, gpipe_order, one_f_one_b_order, zero_bubble_order

BOTH = pytest.mark.parametrize("schedule", ["gpipe", "1f1b"])


def spelled(order: list[Op]) -> str:
    """Digits are forwards, letters backwards, small ones of weights, as in the source's table."""
    letters = {"forward": "0123456789", "backward": "ABCDEFGHIJ", "weight": "abcdefghij"}
    return "".join(letters[kind][m] for kind, m in order)


def test_gpipe_and_1f1b_order_four_micro_batches_on_three_stages_as_drawn() -> None:
    assert [spelled(gpipe_order(k, 3, 4)) for k in range(3)] == ["0123ABCD"] * 3
    assert [spelled(one_f_one_b_order(k, 3, 4)) for k in range(3)] == ["012A3BCD", "01A2B3CD", "0A1B2C3D"]


def test_zero_bubble_orders_four_micro_batches_on_three_stages_as_drawn() -> None:
    drawn = ["012Aa3BbCcDd", "01A2Ba3CbDcd", "0A1B2Ca3Dbcd"]
    assert [spelled(zero_bubble_order(k, 3, 4)) for k in range(3)] == drawn


def test_the_zero_bubble_order_is_that_of_torch() -> None:
    """Taken from ScheduleInterleavedZeroBubble, torch 2.13, a stage on each of 3 ranks, 8 micro-batches."""
    assert spelled(zero_bubble_order(0, 3, 8)) == "012Aa3Bb4Cc5Dd6Ee7FfGgHh"
    assert spelled(zero_bubble_order(1, 3, 8)) == "01A2Ba3Cb4Dc5Ed6Fe7GfHgh"
    assert spelled(zero_bubble_order(2, 3, 8)) == "0A1B2Ca3Db4Ec5Fd6Ge7Hfgh"


def test_zero_bubble_fills_the_bubble_of_1f1b_with_the_gradients_of_weights() -> None:
    """With F = I = W = 1 a batch of M takes 3 M + K - 1 on the last stage; 1f1b needs 3 (M + K - 1)."""
    costs = [StageCost(forward=1, backward=2)] * 4
    for micro in (4, 8, 16):
        zero, one = (simulate_pipelined(costs, name, micro) for name in ("zb", "1f1b"))
        assert one.period == 3 * (micro + 3)
        assert 3 * micro + 3 <= zero.period <= one.period - 3
        assert zero.busy == one.busy
    assert simulate_pipelined(costs, "zb", 16).held == [4] * 4


def test_with_fewer_micro_batches_than_stages_all_forwards_precede_the_backwards() -> None:
    assert spelled(one_f_one_b_order(0, 8, 3)) == "012ABC"


@BOTH
@pytest.mark.parametrize(("stages", "micro"), [(1, 1), (2, 1), (2, 4), (3, 4), (4, 4), (8, 32), (5, 7)])
@pytest.mark.parametrize(("forward", "backward"), [(1.0, 1.0), (1.0, 2.0)])
def test_balanced_stages_have_the_bubble_of_the_textbook_formula(
    schedule: str, stages: int, micro: int, forward: float, backward: float
) -> None:
    """(K - 1) / (M + K - 1), Huang et al. 2019."""
    costs = [StageCost(forward=forward, backward=backward)] * stages
    forecast = simulate_pipelined(costs, schedule, micro)
    assert forecast.period == (micro + stages - 1) * (forward + backward)
    assert forecast.bubble == pytest.approx((stages - 1) / (micro + stages - 1))


@BOTH
def test_unbalanced_stages_wait_for_the_slowest(schedule: str) -> None:
    """Two stages, M micro-batches: once through the other, the rest at the slowest one's pace."""
    costs = [StageCost(forward=1, backward=1), StageCost(forward=3, backward=3)]
    assert simulate_pipelined(costs, schedule, 10).period == 1 + 10 * 6 + 1


@BOTH
def test_update_and_load_are_paid_once_per_batch(schedule: str) -> None:
    one = StageCost(forward=1, backward=1)
    first = StageCost(forward=1, backward=1, load=5, update=7)
    costs = [first, one]
    assert simulate_pipelined(costs, schedule, 4).period == 5 + 2 * 5 + 7
    assert simulate_pipelined(costs, schedule, 4).busy == [5 + 8 + 7, 8]


@BOTH
def test_stages_read_their_batch_while_they_wait_for_the_first_message(schedule: str) -> None:
    def period(*loads: float) -> float:
        costs = [StageCost(forward=2, backward=2, load=load) for load in loads]
        return simulate_pipelined(costs, schedule, 4).period

    assert period(5, 5, 5) == period(5, 0, 0)
    assert period(0, 100, 0) > period(0, 0, 0) + 50


@BOTH
def test_a_message_costs_its_sender_its_receiver_and_time_under_way(schedule: str) -> None:
    """One micro-batch there and back over one link: nothing hides anything."""
    down = MessageCost(send=0.5, latency=2, receive=0.25)
    up = MessageCost(send=0.125, latency=4, receive=1)
    costs = [
        StageCost(forward=10, backward=10, activation=down),
        StageCost(forward=10, backward=10, target=up),
    ]
    forecast = simulate_pipelined(costs, schedule, 1)
    assert forecast.period == 40 + (0.5 + 2 + 0.25) + (0.125 + 4 + 1)
    assert forecast.busy == [20 + 0.5 + 1, 20 + 0.25 + 0.125]


def test_1f1b_holds_fewer_micro_batches_than_gpipe() -> None:
    costs = [StageCost(forward=1, backward=2)] * 4
    assert simulate_pipelined(costs, "gpipe", 16).held == [16] * 4
    assert simulate_pipelined(costs, "1f1b", 16).held == [4, 3, 2, 1]


@BOTH
def test_every_batch_takes_as_long_as_the_first(schedule: str) -> None:
    costs = [StageCost(forward=1 + k % 3, backward=2, update=0.5) for k in range(6)]
    periods = {simulate_pipelined(costs, schedule, 8, batches).period for batches in (2, 3, 6)}
    assert len(periods) == 1


@BOTH
def test_a_message_that_waits_for_its_receiver_starts_when_the_sender_has_heard_of_it(schedule: str) -> None:
    """One micro-batch: stage 1 waits since its last backward, stage 0 since its forward (at 10)."""
    down, up = MessageCost(request=4, latency=2), MessageCost(request=40, latency=1, wire=0.5)
    costs = [StageCost(forward=10, backward=10, activation=down), StageCost(forward=1, backward=1, target=up)]
    forward = 10 + 2 + 1
    backward = max(forward + 1, 10 + 40) + 0.5 + 1 + 10
    assert simulate_pipelined(costs, schedule, 1).period == backward
