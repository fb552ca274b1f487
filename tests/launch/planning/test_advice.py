"""Decisions about an engine from measured and predicted speed-ups, all numbers made up."""

from __future__ import annotations

from typing import Any

import pytest

from launch.planning.advice import Option, decide

NOISE = 0.5


def option(engine: str = "cdni", **changes: Any) -> Option:
    """An engine of which the planner was right here, and which learns as well as backprop."""
    known = {"devices": 8, "predicted": 3.0, "measured": 1.5, "predicted_here": 1.5, "cost_here": 0.0}
    return Option(engine=engine, **known | changes)


def test_a_right_prediction_without_spread_is_expected_as_it_is() -> None:
    assert option().error == 0.0
    assert option().expected == (3.0, 3.0)


def test_a_prediction_twice_too_fast_here_may_be_twice_too_fast_there() -> None:
    assert option(predicted_here=3.0).error == 1.0
    assert option(predicted_here=3.0).expected == (1.5, 3.0)


def test_a_prediction_too_slow_here_may_be_too_slow_there() -> None:
    assert option(predicted_here=0.75).expected == (3.0, 6.0)


def test_the_spread_of_the_runs_widens_what_is_expected() -> None:
    assert option(spread=(1.2, 1.65)).expected == pytest.approx((2.4, 3.3))


@pytest.mark.parametrize("missing", ["predicted", "measured", "predicted_here"])
def test_nothing_is_expected_without_a_measurement_and_its_prediction(missing: str) -> None:
    assert option(**{missing: None}).expected is None
    assert decide([option(**{missing: None})], NOISE).kind == "stay"


def test_the_cost_in_as_many_stages_as_devices_counts_before_that_here() -> None:
    assert option(cost_there=2.0).cost == 2.0
    assert option().cost == 0.0


def test_the_engine_with_the_greatest_sure_speed_up_is_taken() -> None:
    wide = option("delayed", predicted=9.0, predicted_here=6.0)  # 2.25 to 9
    found = decide([option("1f1b", predicted=1.8), wide, option("cdni")], NOISE)
    assert (found.kind, found.option and found.option.engine) == ("take", "cdni")
    assert [other.engine for other in found.others] == ["delayed"]  # its range reaches that of cdni


def test_a_gain_below_a_tenth_does_not_pay() -> None:
    assert decide([option(predicted=1.09)], NOISE).kind == "stay"
    assert decide([option(predicted=1.11)], NOISE).kind == "take"


def test_a_gain_that_only_the_upper_end_has_is_uncertain() -> None:
    found = decide([option(predicted=1.5, predicted_here=3.0)], NOISE)  # 0.75 to 1.5
    assert (found.kind, found.option and found.option.engine) == ("uncertain", "cdni")


def test_an_engine_that_learns_worse_is_not_taken_however_fast() -> None:
    assert decide([option(cost_there=0.6)], NOISE).kind == "costly"
    assert decide([option(cost_there=0.4)], NOISE).kind == "take"
    found = decide([option(cost_there=4.0), option("gpipe", predicted=1.2)], NOISE)
    assert (found.kind, found.option and found.option.engine) == ("take", "gpipe")


def test_without_options_backprop_stays() -> None:
    assert decide([], NOISE).kind == "stay"
