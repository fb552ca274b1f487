"""Settings of a training that a task has as its own defaults."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from dni_async.errors import UserError
from launch.config.command_line import parse
from launch.config.compare import CompareConfig
from launch.config.plan import PlanConfig
from launch.config.task_defaults import task_defaults
from launch.config.train import TrainConfig
from tasks.vision.digits import DigitsFcn


class Suited(DigitsFcn):
    defaults: ClassVar[dict[str, Any]] = {
        "lr": 0.5,
        "optimizer": "sgd",
        "optimizer_args": ("momentum=0.5",),
        "evaluations": 3,
    }


class Misspelt(DigitsFcn):
    defaults: ClassVar[dict[str, Any]] = {"learning_rate": 0.5}


SUITED = ("--task", f"{__name__}:Suited")


@pytest.mark.parametrize("kind", [TrainConfig, CompareConfig, PlanConfig])
def test_the_defaults_of_the_task_hold_in_every_command(kind: type[Any]) -> None:
    config = parse(kind, "launch", SUITED)
    assert (config.optimizer.lr, config.optimizer.name) == (0.5, "sgd")
    assert config.optimizer.optimizer_args == ("momentum=0.5",)


def test_the_command_line_overrides_the_defaults_of_the_task() -> None:
    config = parse(
        TrainConfig, "launch.train", (*SUITED, "--lr", "0.25", "--optimizer-args", "momentum=0.25")
    )
    assert config == TrainConfig.of(
        task=SUITED[1], lr=0.25, optimizer="sgd", optimizer_args=("momentum=0.25",), evaluations=3
    )


@pytest.mark.parametrize("option", [("--optimizer", "adam"), ("--optimizer=adam",)])
def test_another_optimizer_does_not_get_the_settings_of_the_default_one(option: tuple[str, ...]) -> None:
    config = parse(TrainConfig, "launch.train", (*SUITED, *option))
    assert (config.optimizer.name, config.optimizer.optimizer_args, config.optimizer.lr) == ("adam", (), 0.5)


def test_other_tasks_have_the_usual_defaults() -> None:
    assert parse(TrainConfig, "launch.train", ("--task", "digits-fcn")) == TrainConfig.of(task="digits-fcn")


def test_a_default_that_no_training_has_is_refused() -> None:
    with pytest.raises(UserError, match="defaults of task Misspelt have learning_rate, which is no setting"):
        task_defaults(Misspelt, TrainConfig)
    with pytest.raises(UserError, match="learning_rate"):
        task_defaults(Misspelt(), TrainConfig)
