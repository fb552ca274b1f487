from __future__ import annotations

import pytest

from dni_async.learning_rates import SCHEDULES, schedule_factor


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        ("constant", {0: 1, 5: 1, 10: 1, 50: 1}),
        ("linear", {0: 1, 1: 0.9, 5: 0.5, 9: 0.1, 10: 0, 11: 0}),
        ("cosine", {0: 1, 5: 0.5, 10: 0, 20: 0}),
        ("step", {0: 1, 5: 1, 6: 0.1, 7: 0.1, 8: 0.01, 10: 0.01}),
    ],
)
def test_the_factors_of_a_schedule_of_10_steps(schedule: str, factors: dict[int, float]) -> None:
    factor = schedule_factor(schedule, 10)
    assert {step: factor(step) for step in factors} == pytest.approx(factors)


def test_the_schedules_are_the_documented_ones() -> None:
    assert SCHEDULES == ("constant", "linear", "cosine", "step")
    with pytest.raises(AssertionError, match="sawtooth"):
        schedule_factor("sawtooth", 10)


def test_milestones_and_gamma_may_be_chosen() -> None:
    factor = schedule_factor("step", 100, milestones=(0.5,), gamma=0.5)
    assert [factor(step) for step in (0, 49, 50, 99)] == [1, 1, 0.5, 0.5]


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        ("constant", {0: 0.25, 1: 0.5, 3: 1, 4: 1, 20: 1}),
        ("linear", {0: 0.25, 3: 1, 4: 1, 9: 0.5, 14: 0}),
    ],
)
def test_warm_up_comes_before_the_schedule(schedule: str, factors: dict[int, float]) -> None:
    factor = schedule_factor(schedule, 14, warmup_steps=4)
    assert {step: factor(step) for step in factors} == pytest.approx(factors)
