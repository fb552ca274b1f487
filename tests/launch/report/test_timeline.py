"""The steady window and the overlap, on timelines whose answer is known."""

import pytest

from launch.report.timeline import overlap, steady_window
from tests.support.summaries import pipeline


def test_the_window_is_in_the_middle_of_the_last_stretch():
    # stage 0 trains 0..60 ms (steps 0-19), evaluates to 64 ms, trains 64..124 ms (steps 20-39);
    # stage 1 the same 1 ms later. All train without evaluation in 65..124: stage 0 starts 21..39 there.
    # 19 starts, the median one is step 30, 8 steps around it are 26..33.
    assert steady_window(pipeline(2)) == (82_000.0, 106_000.0)


def test_no_evaluation_is_in_the_window_and_every_stage_is_at_work():
    timeline = pipeline(stages=4, epochs=3, steps=11)
    low, high = steady_window(timeline)
    inside = [[e for e in row["events"] if e[1] < high and e[1] + e[2] > low] for row in timeline]
    assert all(events for events in inside)
    assert "evaluate" not in {event[0] for events in inside for event in events}


def test_a_last_stretch_that_is_too_short_is_passed_over():
    timeline = pipeline(1, epochs=1, steps=20)
    end = sum(timeline[0]["events"][-1][1:3])
    timeline[0]["events"].append(["forward", end + 1.0, 5.0, 20])
    assert steady_window(timeline) == (18_000.0, 42_000.0)  # steps 6..13 of the first twenty


def test_a_run_shorter_than_the_window_is_shown_whole():
    assert steady_window(pipeline(1, epochs=1, steps=3, evaluations=0)) == (0.0, 8880.0)


def test_stages_that_never_train_together_still_give_a_window():
    apart = [{"stage": 0, "events": [["forward", 0, 5, 0]]}, {"stage": 1, "events": [["forward", 7, 5, 0]]}]
    assert steady_window(apart) == (0.0, 12.0)
    assert overlap(apart) == 0.0


@pytest.mark.parametrize(
    "timeline", [[], [{"stage": 0, "events": []}], [{"stage": 0, "events": [["wait", 0, 9, 0]]}]]
)
def test_a_timeline_without_events_has_neither_window_nor_overlap(timeline):
    assert steady_window(timeline) == (0.0, 0.0)
    assert overlap(timeline) == 0.0


def test_one_stage_has_no_overlap():
    assert overlap(pipeline(1)) == 0.0


def test_overlap_counts_the_time_with_two_or_more_at_work():
    rows = [
        {"stage": 0, "events": [["forward", 0, 40, 0], ["wait", 40, 20, 0], ["sg", 60, 40, 0]]},
        {"stage": 1, "events": [["forward", 0, 20, 0], ["wait", 20, 10, 0], ["backward", 30, 70, 0]]},
        {
            "stage": 2,
            "events": [["forward", 0, 10, 0], ["update", 5, 5, 0], ["send", 10, 80, 0], ["sg", 90, 10, 0]],
        },
    ]
    # two or three compute in 0..20, 30..40 and 60..100
    assert overlap(rows) == pytest.approx(0.70)


def test_overlap_of_a_regular_pipeline_equals_the_value_counted_by_hand():
    # Per 3 ms each stage computes in 0..0.90 and 0.98..2.88 ms, stage 1 one ms later (in 0..0.88,
    # 1.00..1.90, 1.98..3.00): both do in 0..0.88, 1.00..1.90, 1.98..2.88.
    assert overlap(pipeline(2)) == pytest.approx((0.88 + 0.90 + 0.90) / 3)
