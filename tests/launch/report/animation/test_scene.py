from __future__ import annotations

import pytest

from launch.report.animation.scene import Message, Work, make_scene

DECOUPLED = [
    {
        "stage": 0,
        "events": [
            ["forward", 0.0, 10.0, 7],
            ["send", 10.0, 1.0, 7],
            ["sg", 11.0, 4.0, 7],
            ["backward", 15.0, 10.0, 7],
            ["update", 25.0, 1.0, 7],
            ["sg", 60.0, 5.0, 7],
        ],
    },
    {
        "stage": 1,
        "events": [
            ["forward", 12.0, 10.0, 7],
            ["backward", 22.0, 0.5, 7],
            ["backward", 23.0, 20.0, 7],
            ["update", 43.0, 1.0, 7],
        ],
    },
]


def test_an_activation_goes_to_the_next_forward_and_a_late_target_to_the_predictor() -> None:
    assert make_scene(DECOUPLED, (0.0, 100.0)).messages == [
        Message(0, 1, 7, sent=10.0, used=12.0),
        Message(1, 0, 7, sent=43.0, used=60.0),
    ]


def test_every_micro_batch_of_a_pipeline_has_messages_of_its_own() -> None:
    upper = [["forward", 0, 10, 3], ["forward", 10, 10, 3], ["backward", 60, 10, 3], ["backward", 90, 10, 3]]
    lower = [["forward", 20, 10, 3], ["backward", 30, 20, 3], ["forward", 50, 10, 3], ["backward", 60, 20, 3]]
    scene = make_scene([{"stage": 0, "events": upper}, {"stage": 1, "events": lower}], (0.0, 100.0))
    down = [(m.sent, m.used) for m in scene.messages if m.goes_down]
    up = [(m.sent, m.used) for m in scene.messages if not m.goes_down]
    assert (down, up) == ([(10, 20), (20, 50)], [(50, 60), (80, 90)])


def test_work_is_cut_to_the_window_and_what_is_too_short_is_left_out() -> None:
    scene = make_scene(DECOUPLED, (5.0, 30.0))
    assert scene.work[1] == [Work("forward", 12.0, 22.0, 7, 0), Work("backward", 23.0, 30.0, 7, 0)]
    assert scene.work[0][0] == Work("forward", 5.0, 10.0, 7, 0)
    assert scene.busy == pytest.approx((20 + 17) / 50)


def test_an_update_that_comes_in_pieces_counts_once() -> None:
    events = [["update", 0, 1, 5], ["wait", 1, 1, 5], ["update", 2, 1, 5], ["update", 9, 1, 6]]
    assert make_scene([{"stage": 0, "events": events}], (0.0, 20.0)).updates == [[3, 10]]
