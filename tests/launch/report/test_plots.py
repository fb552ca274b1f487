"""The pictures are PNG files of the promised size with something on them."""

import numpy as np
import pytest

from launch.report.plots import plot_curves, plot_timeline
from tests.support.pixels import pixels, share
from tests.support.summaries import pipeline, summary, validated

FORWARD, BACKWARD = (0x3F, 0x78, 0xC9), (0xE8, 0x83, 0x3A)


@pytest.mark.parametrize("stages", [1, 2, 4])
def test_a_timeline_shows_every_stage_in_its_colours(stages, tmp_path):
    path = tmp_path / "timeline.png"
    plot_timeline(pipeline(stages), path, summary(stages=stages))
    image = pixels(path)
    assert image.shape == (200 + 120 * stages, 1200, 3)
    assert share(image, FORWARD) > 0.03
    assert share(image, BACKWARD) > 0.05


def test_stage_0_is_on_top(tmp_path):
    timeline = [
        {"stage": 0, "events": [["forward", 0.0, 100.0, 0]]},
        {"stage": 1, "events": [["backward", 0.0, 100.0, 0]]},
    ]
    plot_timeline(timeline, tmp_path / "timeline.png")
    column = pixels(tmp_path / "timeline.png")[120:, 400]  # below the legend
    (blue,), (orange,) = ([np.flatnonzero(np.abs(column - c).max(-1) <= 3)] for c in (FORWARD, BACKWARD))
    assert blue.size and orange.size and blue.max() < orange.min()


@pytest.mark.parametrize("timeline", [[], [{"stage": 0, "events": []}]])
def test_a_timeline_without_events_is_drawn(timeline, tmp_path):
    plot_timeline(timeline, tmp_path / "timeline.png")
    assert pixels(tmp_path / "timeline.png").shape[1] == 1200


def test_curves_show_losses_and_accuracy(tmp_path):
    plot_curves(summary(), tmp_path / "curves.png")
    image = pixels(tmp_path / "curves.png")
    assert image.shape == (480, 1200, 3)
    assert share(image[:, :600], BACKWARD) > 0.0005  # test loss, left
    assert share(image[:, 600:], FORWARD) > 0.0005  # accuracy, right


@pytest.mark.parametrize(
    "epochs", [[], [{"epoch": 1, "loss": 0.5, "test_loss": None, "test_accuracy": None, "seconds": 1.0}]]
)
def test_curves_of_a_single_evaluation_are_drawn(epochs, tmp_path):
    plot_curves(summary(epochs=epochs, metric_name="negative error"), tmp_path / "curves.png")
    assert pixels(tmp_path / "curves.png").shape == (480, 1200, 3)


def test_a_run_with_validation_has_curves(tmp_path):
    run = validated()
    plot_curves(run, tmp_path / "curves.png")
    image = pixels(tmp_path / "curves.png")
    assert share(image[:, :600], BACKWARD) > 0.0005  # validation loss, left
    assert share(image[:, 600:], FORWARD) > 0.0005  # accuracy, right
