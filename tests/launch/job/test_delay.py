"""How late gradients come by the settings, and what a stage's updater does about it."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch

from dni_async.delay_correction import ErrorFeedback, Nesterov
from dni_async.rules import DelayedRule
from launch.config.train import TrainConfig
from launch.job.delay import Delay
from launch.job.partition_plan import make_plan
from launch.job.stage_factory import build_stage
from tests.support.tiny_task import Tiny, data_of, plain_layers

CPU = torch.device("cpu")


class WithBetas(Tiny):
    defaults: ClassVar = {"optimizer_args": ("betas=0.8,0.99",)}


def delay(index: int = 0, stages: int = 4, task: Any = None, **settings: Any) -> Delay | None:
    config = TrainConfig.of(**{"rule": "delayed"} | settings)
    return Delay.of(config, task or Tiny(), index, stages)


def test_the_delay_of_a_stage_is_what_its_stash_allows_in_its_own_updates() -> None:
    def updates(**settings: Any) -> list[int]:
        found = [delay(i, **settings) for i in range(4)]
        return [each.updates if each else 0 for each in found]

    assert updates() == [3, 2, 1, 0]
    assert updates(stash=3) == [2, 2, 2, 0]
    assert updates(stash=1) == [0] * 4
    assert updates(accumulate=2) == [2, 1, 1, 0]
    assert updates(accumulate=4) == [1, 1, 1, 0]
    assert updates(rule="cdni") == [0] * 4


def test_beta1_is_that_of_the_user_where_there_is_one() -> None:
    def beta1(**settings: Any) -> float | None:
        found = delay(**settings)
        assert found is not None
        return found.beta1

    assert beta1() == 0.5
    assert beta1(optimizer="adamw", delay_beta1=0.0) == 0.0
    assert beta1(optimizer_args=("betas=0.7,0.9",)) is None
    assert beta1(optimizer_args=("betas=0.7,0.9",), delay_beta1=0.2) == 0.2
    assert beta1(task=WithBetas(), optimizer_args=("betas=0.8,0.99",)) == 0.5  # the task's, not the user's
    assert beta1(optimizer="nadam") is None
    assert beta1(optimizer="sgd") is None


def stages_of(**settings: Any) -> list[Any]:
    config = TrainConfig.of(**{"rule": "delayed", "batch_size": 16, "epochs": 2, "cut": "1,2,3"} | settings)
    task = Tiny(plain_layers)
    plan = make_plan(config, task, data_of(task, config), 4)
    return [build_stage(config, task, plan, i, CPU)[0] for i in range(4)]


def settings_of(stage: Any) -> tuple[float, float]:
    [group] = stage.updater.optimizer.param_groups
    return group["lr"], group["betas"][0]


def test_rates_are_divided_by_a_power_of_the_delay_and_the_last_stage_is_as_without_one() -> None:
    found = [settings_of(stage) for stage in stages_of(lr=1e-2)]
    assert found == [(pytest.approx(1e-2 / d**0.75), 0.5) for d in (3, 2, 1)] + [(1e-2, 0.9)]
    plain = [settings_of(stage) for stage in stages_of(lr=1e-2, delay_rate=0.0, delay_beta1=0.9)]
    assert plain == [(1e-2, 0.9)] * 4


def test_the_schedule_goes_on_from_the_divided_rate() -> None:
    stage = stages_of(lr=1e-2, schedule="linear")[0]
    first = settings_of(stage)[0]
    stage.updater.count_on(stage.updater.version + 1)
    assert 0 < settings_of(stage)[0] < first == pytest.approx(1e-2 / 3**0.75)


@pytest.mark.parametrize(
    ("correction", "kinds", "predicted"),
    [
        ("none", [type(None)] * 4, [0, 0, 0]),
        ("error-feedback", [ErrorFeedback] * 3 + [type(None)], [0, 0, 0]),
        ("nesterov", [Nesterov] * 3 + [type(None)], [0, 0, 0]),
        ("weight-prediction", [type(None)] * 4, [3, 2, 1]),
    ],
)
def test_stages_with_a_delay_correct_it(correction: str, kinds: list[type], predicted: list[int]) -> None:
    stages = stages_of(delay_correction=correction)
    assert [type(stage.updater.correction) for stage in stages] == kinds
    rules = [stage.rule for stage in stages[:-1]]
    assert all(isinstance(rule, DelayedRule) for rule in rules)
    assert [rule.prediction.updates if rule.prediction else 0 for rule in rules] == predicted


@pytest.mark.parametrize("optimizer", ["nadam", "muon" if hasattr(torch.optim, "Muon") else "radam"])
def test_other_optimizers_keep_their_betas_unless_told_otherwise(optimizer: str) -> None:
    def betas(**settings: Any) -> list[float]:
        groups = stages_of(optimizer=optimizer, **settings)[0].updater.optimizer.param_groups
        return [group["betas"][0] for group in groups if "betas" in group]

    assert set(betas()) == {0.9}
    assert set(betas(delay_beta1=0.3)) == {0.3}
