"""The picture of the timeline is a PNG file of the promised size with something on it."""

import numpy as np
import pytest

from launch.report.timeline_plot import plot_timeline
from tests.support.pixels import pixels, share
from tests.support.summaries import pipeline, summary

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
