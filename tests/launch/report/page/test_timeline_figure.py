from __future__ import annotations

import numpy as np

from launch.report.page.timeline_figure import excerpt, queue_figure, timeline_figure
from tests.support.summaries import pipeline


def test_a_short_timeline_is_shown_whole_and_a_long_one_around_its_steady_part() -> None:
    whole = excerpt(pipeline())
    assert sum(len(row["events"]) for row in whole.timeline) == sum(len(row["events"]) for row in pipeline())
    part = excerpt(pipeline(), most=50)
    assert 40 <= sum(len(row["events"]) for row in part.timeline) <= 50
    low, high = part.steady
    assert part.part[0] < (low + high) / 2 < part.part[1]


def test_every_event_but_waiting_is_a_bar_of_its_kind_in_the_lane_of_its_stage() -> None:
    shown = excerpt(pipeline(stages=3, epochs=1, steps=4))
    bars = {trace.name: trace for trace in timeline_figure(shown).data}
    assert list(bars) == ["forward", "backward", "update", "SG training", "send", "evaluate"]
    forward = bars["forward"]
    assert sorted(set(forward.y)) == [0, 1, 2] and len(forward.x) == 3 * 4 * 3
    assert np.allclose(forward.x[:2], [0.0, 0.9]) and np.isnan(forward.x[2])
    assert forward.customdata[:6].tolist() == [0, 0, 0, 1, 1, 1]


def test_the_view_begins_with_the_steady_steps() -> None:
    shown = excerpt(pipeline())
    made = timeline_figure(shown)
    low, high = made.layout.xaxis.range
    assert np.isclose(high - low, (shown.steady[1] - shown.steady[0]) / 1000)


def test_a_message_counts_from_its_sending_until_it_is_taken_up() -> None:
    shown = excerpt(
        [
            {"stage": 0, "events": [["forward", 0, 10, 1], ["send", 10, 2, 1], ["sg", 90, 5, 1]]},
            {"stage": 1, "events": [["forward", 30, 10, 1], ["backward", 40, 9, 1], ["send", 50, 2, 1]]},
        ]
    )
    made = queue_figure(shown)
    assert made is not None
    found = {trace.name: (trace.x.tolist(), trace.y.tolist()) for trace in made.data}
    assert found == {
        "activations 0 → 1": ([0.01, 0.03], [1.0, 0.0]),
        "targets 1 → 0": ([0.05, 0.09], [1.0, 0.0]),
    }


def test_one_process_has_no_queues() -> None:
    assert queue_figure(excerpt(pipeline(stages=1))) is None
