"""The settings of tasks over time."""

from __future__ import annotations

from typing import Any

import pytest

from dni_async.errors import UserError
from launch.config.recurrent import SequenceConfig


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"bptt": 0}, "bptt is 0; it must be at least 1"),
        ({"rule": "cdni"}, r"unknown rule for a task over time \(cdni\); use bptt, dni"),
        ({"patience": -1}, "patience is -1"),
        ({"state_bound": 0.0}, r"state-bound is 0\.0"),
        ({"discount": 1.5}, r"discount is 1\.5"),
        ({"stages": 2}, "stages is 2; tasks over time run in one process"),
        ({"in_flight": 2}, "in-flight is 2; tasks over time"),
        ({"target_every": 2}, "target-every is 2; tasks over time"),
        ({"compile": True}, "compile is True; tasks over time"),
        ({"until": 1.0}, r"until is 1\.0; tasks over time"),
        ({"micro_batches": 2}, "micro-batches is 2; tasks over time"),
        ({"precision": "bf16"}, "precision is bf16; tasks over time"),
        ({"batch_size": 0}, "batch-size is 0"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        SequenceConfig(**settings)


def test_tasks_over_time_accept_one_stage() -> None:
    assert SequenceConfig(stages=1).stages == 1
