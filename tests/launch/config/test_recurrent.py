"""The settings of tasks over time."""

from __future__ import annotations

import math
from typing import Any

import pytest

from dni_async.errors import UserError
from dni_async.networks.settings import SGConfig
from launch.config.recurrent import SequenceConfig, WindowsConfig
from launch.config.train import TrainConfig


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"bptt": 0}, "bptt is 0; it must be at least 1"),
        ({"rule": "cdni"}, r"unknown rule for a task over time \(cdni\); use bptt, dni"),
        ({"patience": -1}, "patience is -1"),
        ({"state_bound": 0.0}, r"state-bound is 0\.0"),
        ({"state_bound": math.nan}, "state-bound is nan"),
        ({"discount": 1.5}, r"discount is 1\.5"),
        ({"batch_size": 0}, "batch-size is 0"),
        ({"sg": SGConfig(gate=True)}, "sg.gate slows stages down, and a task over time has none"),
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


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"rules": ()}, "rules is empty; name at least one"),
        ({"windows": (4, 4)}, "windows is 4 4; name at least one, each once"),
        ({"repeats": 0}, "repeats is 0"),
        ({"rules": ("bptt", "cdni")}, r"unknown rule for a task over time \(cdni\)"),
        ({"windows": (2, 0)}, "bptt is 0; it must be at least 1"),
    ],
)
def test_wrong_settings_are_refused_before_anything_runs(settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        WindowsConfig.of(**settings)


def test_rules_and_windows_take_turns_seed_after_seed() -> None:
    config = WindowsConfig.of(rules=("bptt", "dni"), windows=(2, 8), repeats=2, seed=3, lr=1e-2)
    jobs = config.jobs()
    first = [("bptt", 2), ("dni", 2), ("bptt", 8), ("dni", 8)]
    assert [(job.rule, job.bptt, job.task.seed) for job in jobs] == [
        (*each, seed) for seed in (3, 4) for each in first
    ]
    assert {job.optimizer.lr for job in jobs} == {1e-2}


@pytest.mark.parametrize("name", ["rule", "bptt"])
def test_what_is_compared_has_no_setting_for_one_of_its_kind(name: str) -> None:
    assert name not in WindowsConfig.setting_names()
