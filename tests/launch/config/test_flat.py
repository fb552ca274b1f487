"""Groups of settings with one flat namespace."""

from __future__ import annotations

import dataclasses

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


def test_an_unknown_setting_is_an_error() -> None:
    with pytest.raises(TypeError, match="TrainConfig has no setting epoch, word"):
        TrainConfig.of(epoch=3, word=1)
