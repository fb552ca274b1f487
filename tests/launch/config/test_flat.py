"""Groups of settings with one flat namespace."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from dni_async.errors import UserError
from dni_async.networks.settings import SGConfig
from launch.config.compare import CompareConfig
from launch.config.plan import PlanConfig
from launch.config.recurrent import SequenceConfig, WindowsConfig
from launch.config.train import TrainConfig

KINDS = [TrainConfig, CompareConfig, PlanConfig, SequenceConfig, WindowsConfig]


def test_flat_keywords_arrive_in_their_groups() -> None:
    config = TrainConfig.of(task="digits-fcn", optimizer="sgd", lr=0.5, stages=3, out="a", rule="dni")
    assert (config.task.name, config.optimizer.name, config.optimizer.lr) == ("digits-fcn", "sgd", 0.5)
    assert (config.partition.stages, config.output.out, config.rule) == (3, "a", "dni")


@pytest.mark.parametrize("kind", KINDS)
def test_a_configuration_equals_the_one_made_of_its_flat_settings(kind: type[TrainConfig]) -> None:
    config = kind.of(epochs=7, lr=0.25, quiet=True, sg=SGConfig(kind="mlp"))
    assert kind.of(**config.flat()) == config
    assert list(config.flat()) == kind.setting_names()


@pytest.mark.parametrize("kind", KINDS)
def test_no_two_groups_have_a_setting_of_the_same_name(kind: type[TrainConfig]) -> None:
    names = kind.setting_names()
    assert len(names) == len(set(names)) > 20
    assert {"task", "optimizer"} <= set(names) and "name" not in names


def test_files_hold_the_flat_settings() -> None:
    settings = TrainConfig.of(epochs=3, sg=SGConfig(rank=2)).as_json()
    assert (settings["task"], settings["epochs"], settings["sg"]["rank"]) == ("mnist-fcn", 3, 2)
    assert not any(dataclasses.is_dataclass(value) for value in settings.values())


def test_a_changed_copy_is_checked_and_leaves_the_original_alone() -> None:
    config = TrainConfig.of(epochs=3)
    assert config.changed(epochs=4).task.epochs == 4 and config.task.epochs == 3
    with pytest.raises(UserError, match="epochs is 0"):
        config.changed(epochs=0)


def test_defaults_are_those_of_the_kind() -> None:
    assert PlanConfig.of(seed=1).task.epochs == 2
    over_time = SequenceConfig.of(seed=1)
    assert (over_time.task.name, over_time.task.batch_size, over_time.optimizer.lr) == ("copy", 32, 3e-3)


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("lr", "0.1", "lr is '0.1'; it must be a number"),
        ("lr", True, "lr is True; it must be a number"),
        ("seed", 1.5, "seed is 1.5; it must be a whole number"),
        ("rule", None, "rule is None; it must be a text"),
        ("clip_norm", "abc", "clip-norm is 'abc'; it must be a number"),
        ("optimizer_args", 3, "optimizer-args is 3; give a list, of which each is a text"),
        ("milestones", ["a"], "milestones is ['a']; give a list, of which each is a number"),
        ("sg", "mlp", "sg is 'mlp'; it must be of type SGConfig"),
    ],
)
def test_a_value_of_another_type_is_one_line(name: str, value: Any, line: str) -> None:
    with pytest.raises(UserError) as error:
        TrainConfig.of(**{name: value})
    assert str(error.value) == line


def test_lists_and_one_text_are_tuples_and_paths_are_texts(tmp_path: Path) -> None:
    config = TrainConfig.of(log="csv", milestones=[0.25, 0.5], clip_norm=1, in_flight=4, out=tmp_path)
    assert (config.logging.log, config.optimizer.milestones) == (("csv",), (0.25, 0.5))
    assert (config.output.out, config.optimizer.clip_norm) == (str(tmp_path), 1)


def test_an_unknown_setting_is_an_error() -> None:
    with pytest.raises(TypeError, match="TrainConfig has no setting epoch, word"):
        TrainConfig.of(epoch=3, word=1)
