"""Closed forms of free-running stages, and that nothing depends on chance."""

from __future__ import annotations

import itertools
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dni_async.rules.registry import capabilities_of
from launch.planning.simulator import MessageCost, StageCost, SteadyState, simulate_decoupled
from launch.planning.simulator.decoupled import steady_period

KINDS = ("dni", "local", "delayed")
ONE = StageCost(forward=1, backward=2)


def run(stages: list[StageCost], kind: str = "dni", **options: Any) -> SteadyState:
    """kind: a rule whose stages behave so."""
    able = capabilities_of(kind)
    behaviour = {"needs_targets": able.needs_targets, "keeps_graphs": able.keeps_graphs}
    return simulate_decoupled(stages, **behaviour | {"in_flight": 4} | options)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stages", [1, 2, 3, 8, 30])
def test_balanced_stages_without_messages_are_never_idle(kind: str, stages: int) -> None:
    """Backprop would take 3 K seconds per batch: the speed-up is K."""
    forecast = run([ONE] * stages, kind, batches=40 * stages)
    assert forecast.period == pytest.approx(3.0)
    assert forecast.bubble == pytest.approx(0.0)
    assert forecast.busy == [3.0] * stages


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("slowest", [0, 1, 3])
def test_the_slowest_stage_sets_the_pace(kind: str, slowest: int) -> None:
    costs = [ONE] * 4
    costs[slowest] = StageCost(forward=2, backward=3, update=0.5)
    forecast = run(costs, kind)
    assert forecast.period == pytest.approx(5.5)
    assert forecast.bubble == pytest.approx(1 - (5.5 + 9) / 4 / 5.5)


@pytest.mark.parametrize(
    ("ends", "period"),
    [
        ([0, 1, 3, 4, 6, 7, 9], 1.5),
        ([1, 3, 4, 6, 7, 9, 10, 12], 1.5),
        ([5, 7, 9, 11], 2),
        ([0, 1, 3, 7], 7 / 3),
        ([2, 5], 3),
    ],
)
def test_throughput_is_averaged_over_whole_periods(ends: list[float], period: float) -> None:
    assert steady_period(ends) == pytest.approx(period)


def test_a_stage_does_everything_once_per_batch() -> None:
    cost = StageCost(forward=1, backward=2, update=4, load=8, predict=16, train=32)
    last = StageCost(forward=1, backward=2, update=4)
    assert run([cost, last]).busy == [63.0, 7.0]
    assert run([cost, last], "local").busy == [31.0, 7.0]
    assert run([cost, last], "delayed").busy == [15.0, 7.0]
    assert run([cost, last]).period == pytest.approx(63.0)


def test_a_message_keeps_its_sender_and_its_receiver_busy() -> None:
    down = MessageCost(send=0.5, latency=100, receive=0.25)
    up = MessageCost(send=0.125, latency=100, receive=1)
    costs = [StageCost(forward=1, backward=2, activation=down), StageCost(forward=1, backward=2, target=up)]
    assert run(costs, in_flight=1000).busy == [3 + 0.5 + 1, 3 + 0.25 + 0.125]
    assert run(costs, "local").busy == [3.5, 3.25]


def test_one_batch_in_flight_makes_the_sender_wait_for_its_credit() -> None:
    """Stage 1 gives the room back when it is done with the batch, stage 0 begins then:

    stage 0   f b b . . f b b
    stage 1     . L f b b . . L f b b         L: latency, credit at the end: 1 (stage 0) + L + 3
    """
    down = MessageCost(latency=0.5, credit=0.25)
    costs = [StageCost(forward=1, backward=2, activation=down), ONE]
    forecast = run(costs, "local", in_flight=1)
    assert forecast.period == pytest.approx(1 + 0.5 + 3 + 0.25)
    assert forecast.in_flight == [1, 0]


def test_a_second_batch_in_flight_hides_the_latency() -> None:
    down, up = MessageCost(latency=0.5, credit=0.25), MessageCost(latency=0.5, credit=0.25)
    costs = [StageCost(forward=1, backward=2, activation=down, target=up)] * 6
    assert run(costs, in_flight=1).period > 3.5
    assert run(costs, in_flight=2).period == pytest.approx(3.0)
    assert run(costs, in_flight=4).period == pytest.approx(3.0)


@pytest.mark.parametrize("latency", [0.0, 10.0, 30.0])
def test_a_latency_of_n_batches_needs_as_many_in_flight(latency: float) -> None:
    """The room of a batch is taken for its latency and its handling, and a forward comes before the next."""
    costs = [StageCost(forward=1, backward=2, activation=MessageCost(latency=latency)), ONE]
    forecast = run(costs, "local", in_flight=4, batches=400)
    assert forecast.period == pytest.approx(max(3.0, (latency + 3 + 1) / 4))


def test_without_waiting_the_target_comes_two_updates_later() -> None:
    """Stage 1 ends its backward of batch 0 at 4; stage 0 has begun batch 1 at 3 and looks again at 6."""
    forecast = run([ONE, ONE])
    assert forecast.staleness == [pytest.approx(2.0, abs=0.05), 0.0]
    assert forecast.held == [2, 0]


def test_behind_a_slow_stage_targets_are_as_late_as_batches_are_in_flight() -> None:
    slow = StageCost(forward=10, backward=20)
    for in_flight in (1, 2, 8):
        forecast = run([ONE, slow], in_flight=in_flight)
        assert forecast.staleness[0] == pytest.approx(in_flight, abs=0.3)
        assert forecast.in_flight[0] == in_flight


def test_staleness_of_delayed_gradients_grows_with_the_stages_below() -> None:
    forecast = run([ONE] * 5, "delayed", in_flight=64)
    assert forecast.staleness == sorted(forecast.staleness, reverse=True)
    assert forecast.staleness[0] > forecast.staleness[2] + 2 > forecast.staleness[4] == 0


def test_a_delayed_stage_with_room_for_one_batch_is_sequential_backprop() -> None:
    forecast = run([ONE] * 4, "delayed", stash=[1] * 4)
    assert forecast.period == pytest.approx(4 * 3.0)
    assert forecast.held == [1, 1, 1, 0]
    assert forecast.staleness == [0.0] * 4


def test_a_full_stash_bounds_the_throughput() -> None:
    """At most 4 batches on a way of 2 K stages' work: 4 / (3 K), or the pace of one stage."""
    periods = [run([ONE] * k, "delayed", stash=[4] * k, batches=400).period for k in (4, 8, 16)]
    assert periods == [pytest.approx(3.0), pytest.approx(3 * 8 / 4), pytest.approx(3 * 16 / 4)]


seconds = st.integers(0, 8).map(lambda n: n / 4)
messages = st.builds(MessageCost, send=seconds, latency=seconds, receive=seconds, credit=seconds)
stages_of = st.lists(
    st.builds(
        StageCost,
        forward=seconds,
        backward=seconds.map(lambda s: s + 0.25),
        update=seconds,
        load=seconds,
        predict=seconds,
        train=seconds,
        activation=messages,
        target=messages,
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=80, deadline=None, database=None)
@given(stages_of, st.sampled_from(KINDS), st.integers(1, 5))
def test_no_stage_is_faster_than_its_work_and_the_run_always_ends(
    costs: list[StageCost], kind: str, in_flight: int
) -> None:
    forecast = run(costs, kind, in_flight=in_flight, batches=100)
    one_at_a_time = sum(forecast.busy) + sum(
        m.latency + m.credit for cost in costs for m in (cost.activation, cost.target)
    )
    assert forecast.period >= max(forecast.busy) * 0.97
    assert forecast.period <= one_at_a_time * 1.03
    assert max(forecast.in_flight) <= in_flight
    assert all(s >= 0 for s in forecast.staleness)


@settings(max_examples=40, deadline=None, database=None)
@given(stages_of, st.sampled_from(KINDS), st.integers(1, 5))
def test_the_same_costs_give_the_same_forecast(costs: list[StageCost], kind: str, in_flight: int) -> None:
    assert run(costs, kind, in_flight=in_flight, batches=40) == run(
        costs, kind, in_flight=in_flight, batches=40
    )


@pytest.mark.parametrize("kind", KINDS)
def test_cheaper_sections_more_room_and_faster_messages_never_slow_it_down(kind: str) -> None:
    def period(work: float = 1.0, latency: float = 1.0, in_flight: int = 2) -> float:
        cost = StageCost(
            forward=1,
            backward=2 * work,
            predict=0.5,
            train=0.5,
            activation=MessageCost(send=0.1, latency=latency),
            target=MessageCost(send=0.1, latency=latency),
        )
        return run([cost] * 5, kind, in_flight=in_flight, batches=300).period

    for values in (
        [period(work=w) for w in (0.25, 0.5, 1.0, 2.0)],
        [period(latency=x) for x in (0.0, 0.5, 1.0, 4.0)],
        [period(in_flight=n) for n in (8, 4, 2, 1)],
    ):
        assert all(a <= b * 1.01 for a, b in itertools.pairwise(values)), values


def test_a_thousand_stages_take_seconds() -> None:
    begun = time.monotonic()
    assert run([ONE] * 1024).period == pytest.approx(3.0)
    assert time.monotonic() - begun < 30  # about one; the machine may be busy


def test_the_wire_sets_the_pace_where_its_messages_take_longer_than_the_stages() -> None:
    far = StageCost(forward=1, backward=2, activation=MessageCost(wire=7.0, latency=100.0, credit=100.0))
    assert run([far, ONE], "local", in_flight=64).period == pytest.approx(7.0)


def test_latency_costs_nothing_while_enough_messages_are_in_flight() -> None:
    far = MessageCost(wire=0.5, latency=100.0, credit=100.0)
    stages = [StageCost(forward=1, backward=2, activation=far), StageCost(forward=1, backward=2, target=far)]
    assert run(stages, in_flight=70, batches=500).period == pytest.approx(3.0, rel=0.01)
    assert run(stages, in_flight=7, batches=500).period > 20.0
