"""The curve of the training loss."""

from __future__ import annotations

import pytest

from launch.report import training_loss
from launch.report.training_loss import TrainingLoss


def add(
    loss: TrainingLoss, mean: float | None, trained: int, step: int, *, ends: bool = False
) -> float | None:
    return loss.add({"loss": mean, "trained": trained}, step, step / 4, epoch_ends=ends)


def test_each_point_is_the_mean_of_the_samples_since_the_last() -> None:
    loss = TrainingLoss()
    points = [add(loss, 0.9, 100, 1), add(loss, 0.8, 200, 2), add(loss, 0.7, 400, 4, ends=True)]
    assert [*points, add(loss, 0.4, 100, 5)] == pytest.approx([0.9, 0.7, 0.6, 0.4])
    assert [(point["step"], point["epoch"]) for point in loss.points] == [
        (1, 0.25),
        (2, 0.5),
        (4, 1),
        (5, 1.25),
    ]


def test_a_record_without_training_adds_no_point() -> None:
    loss = TrainingLoss()
    assert [add(loss, None, 0, 0), add(loss, 0.5, 10, 1), add(loss, 0.5, 10, 1)] == [None, 0.5, None]
    assert len(loss.points) == 1


def test_a_long_run_has_a_bounded_curve_with_the_same_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_loss, "MOST_POINTS", 8)
    loss = TrainingLoss()
    for step in range(1, 1001):
        add(loss, float(step), 2, step, ends=True)
    assert len(loss.points) <= 8
    samples = [point["samples"] for point in loss.points]
    assert sum(samples) == 2000
    mean = sum(point["loss"] * point["samples"] for point in loss.points) / 2000
    assert mean == pytest.approx(500.5)


def test_a_curve_goes_on_from_its_state() -> None:
    whole, first = TrainingLoss(), TrainingLoss()
    for loss in (whole, first):
        add(loss, 0.9, 100, 1)
    second = TrainingLoss()
    second.load_state_dict(first.state_dict())
    for loss in (whole, second):
        add(loss, 0.8, 200, 2)
    assert second.points == whole.points
