"""Loggers by name, and the line for one that cannot be had."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence

import pytest

from dni_async.errors import UserError
from launch.config.compare import CompareConfig
from launch.config.recurrent import SequenceConfig
from launch.config.train import TrainConfig
from launch.loggers.base import Logger
from launch.loggers.csv_file import CsvLogger
from launch.loggers.registry import PACKAGES, check_loggers, find_logger


class Mine(Logger):
    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        pass


def test_a_logger_is_found_by_its_name_and_by_its_path() -> None:
    assert find_logger("csv") is CsvLogger
    assert find_logger(f"{__name__}:Mine") is Mine


@pytest.mark.parametrize("name", PACKAGES)
def test_a_logger_that_is_not_installed_names_its_extra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda found: None)
    with pytest.raises(UserError) as error:
        TrainConfig.of(log=(name,), out="runs/a")
    assert str(error.value) == (
        f"log {name} needs the package {name}, which is not installed; pip install 'dni-async[{name}]'"
    )


@pytest.mark.parametrize(
    ("names", "out", "line"),
    [
        (["json"], "a", "unknown logger (json); use one of csv, tensorboard, wandb, trackio, or your own as"),
        (["csv", "csv"], "a", "log has csv twice; name it once"),
        (["csv"], "", "log csv writes to the folder of the run; give one with --out"),
        (["tests.support.nets:nothing"], "a", "logger class not found (nothing)"),
        (["tests.support.jobs:ROOT"], "a", "no logger (tests.support.jobs:ROOT): derive the class from"),
    ],
)
def test_a_wrong_logger_is_one_line(names: Sequence[str], out: str, line: str) -> None:
    with pytest.raises(UserError) as error:
        check_loggers(names, out)
    assert str(error.value).startswith(line) and "\n" not in str(error.value)


def test_every_command_that_trains_checks_its_loggers() -> None:
    with pytest.raises(UserError, match="give one with --out"):
        SequenceConfig.of(task="copy", log=("csv",))
    with pytest.raises(UserError, match="unknown logger"):
        CompareConfig.of(log=("json",))
    CompareConfig.of(log=("csv",))  # each job has a folder
