from __future__ import annotations

import pytest

from launch.planning.simulator import SteadyState


@pytest.mark.parametrize(
    ("period", "busy", "bubble"),
    [(4.0, [4.0, 4.0], 0.0), (4.0, [4.0, 2.0], 0.25), (10.0, [1.0], 0.9), (0.0, [0.0], 0.0)],
)
def test_the_bubble_is_the_share_of_time_in_which_the_average_stage_waits(
    period: float, busy: list[float], bubble: float
) -> None:
    assert SteadyState(period=period, busy=busy).bubble == pytest.approx(bubble)


def test_rounding_makes_no_negative_bubble() -> None:
    assert SteadyState(period=0.3, busy=[0.1 + 0.2]).bubble == 0.0
