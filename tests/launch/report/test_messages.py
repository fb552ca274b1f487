from __future__ import annotations

from launch.report.messages import ACTIVATION, TARGET, Transfer, transfers

TWO_STEPS = [
    {
        "stage": 0,
        "events": [
            ["forward", 0.0, 10.0, 7],
            ["send", 10.0, 2.0, 7],
            ["forward", 12.0, 8.0, 8],
            ["send", 20.0, 2.0, 8],
            ["sg", 60.0, 5.0, 7],
        ],
    },
    {
        "stage": 1,
        "events": [["forward", 15.0, 10.0, 7], ["backward", 25.0, 20.0, 7], ["send", 45.0, 2.0, 7]],
    },
]


def test_each_sending_is_paired_with_the_work_that_it_starts() -> None:
    assert list(transfers(TWO_STEPS)) == [
        Transfer(ACTIVATION, 0, 1, 7, 10.0, 15.0),
        Transfer(TARGET, 1, 0, 7, 45.0, 60.0),
    ]


def test_a_single_stage_sends_nothing() -> None:
    assert list(transfers(TWO_STEPS[:1])) == []
