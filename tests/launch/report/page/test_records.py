from __future__ import annotations

import pytest

from launch.report.page.records import AXES, evaluations, loss_curve, metric_of, position, since_last
from tests.support.recorded_runs import recorded


def test_the_mean_of_a_stretch_comes_from_two_running_means() -> None:
    assert since_last([2.0, 2.5, 2.5], [10, 20, 40]) == [2.0, 3.0, 2.5]


def test_nothing_is_said_of_a_stretch_without_anything_new_or_where_counts_began_again() -> None:
    assert since_last([2.0, 2.0, None, 1.0, 1.5], [10, 10, None, 4, 8]) == [2.0, None, None, None, 2.0]


@pytest.mark.parametrize(("axis", "place"), [("seconds", 8.0), ("epochs", 2.0), ("samples", 120_000.0)])
def test_a_record_has_a_place_on_every_axis(axis: str, place: float) -> None:
    run = recorded()
    assert position(run, axis)(evaluations(run)[1]) == place


def test_without_an_evaluation_a_step_has_a_place_in_seconds_only() -> None:
    run = recorded(epochs=[], evaluations=[])
    places = [position(run, axis)({"step": 5, "seconds": 0.5}) for axis in AXES]
    assert places == [0.5, None, None]


def test_the_loss_is_that_since_the_last_record_or_else_that_of_the_epochs() -> None:
    run = recorded(lines=3)
    assert [record["recent_loss"] for record in loss_curve(run)] == [50 / 440, 50 / 830, 50 / 1220]
    run.lines = []
    assert [record["recent_loss"] for record in loss_curve(run)][:2] == [0.5, 0.25]


def test_a_task_over_time_has_the_scores_of_its_validations_or_the_length_that_it_solves() -> None:
    epochs = [
        {"epoch": 1, "updates": 10, "seconds": 1.0, "loss": 2.0, "validation": {"bits per symbol": 1.5}}
    ]
    run = recorded(epochs=epochs, evaluations=None, metric_name=None)
    key, name = metric_of(run)
    assert (key, name, evaluations(run)[0][key]) == ("validation_bits_per_symbol", "bits per symbol", 1.5)
    solved = recorded(epochs=[{"epoch": 1, "longest_solved_length": 3}], evaluations=None, metric_name=None)
    assert metric_of(solved) == ("longest_solved_length", "longest solved length")
