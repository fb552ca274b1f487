"""The settings of tasks over time."""

from __future__ import annotations

from typing import Any

import pytest

from dni_async.errors import UserError
from launch.config.recurrent import SequenceConfig
from launch.config.train import TrainConfig


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"bptt": 0}, "bptt is 0; it must be at least 1"),
        ({"rule": "cdni"}, r"unknown rule for a task over time \(cdni\); use bptt, dni"),
        ({"patience": -1}, "patience is -1"),
        ({"state_bound": 0.0}, r"state-bound is 0\.0"),
        ({"discount": 1.5}, r"discount is 1\.5"),
        ({"batch_size": 0}, "batch-size is 0"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        SequenceConfig.of(**settings)


@pytest.mark.parametrize(
    "name",
    ["stages", "cut", "in_flight", "target_every", "compile", "until", "micro_batches", "precision", "port"],
)
def test_a_task_over_time_has_no_setting_of_stages(name: str) -> None:
    assert name in TrainConfig.setting_names() and name not in SequenceConfig.setting_names()
    with pytest.raises(TypeError, match=f"SequenceConfig has no setting {name}"):
        SequenceConfig.of(**{name: 2})
