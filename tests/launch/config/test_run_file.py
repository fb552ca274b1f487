"""config.yaml repeats a run, and one line says what is wrong with it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml

from dni_async.errors import UserError
from launch.config.command_line import parse
from launch.config.compare import CompareConfig
from launch.config.flat import FlatConfig
from launch.config.plan import PlanConfig
from launch.config.recurrent import SequenceConfig, WindowsConfig
from launch.config.run_file import NOT_REPEATED, version, write_run_file
from launch.config.sweep import SweepConfig, parse_sweep
from launch.config.train import TrainConfig
from launch.train import configuration

COMMANDS: list[tuple[type[FlatConfig], str]] = [
    (TrainConfig, "train"),
    (SequenceConfig, "train"),
    (CompareConfig, "compare"),
    (PlanConfig, "plan"),
    (WindowsConfig, "windows"),
]


def other_value(name: str, value: Any) -> Any:
    """A value of an option that is not its default, for most options."""
    special = {
        "milestones": (0.25, 0.5),
        "optimizer_args": ("betas=0.5,0.9",),
        "task_args": ("depth=3", "width=8"),
    }
    if name in special:
        return special[name]
    if isinstance(value, float):
        return value / 3
    return value


@pytest.mark.parametrize(("cls", "command"), COMMANDS)
@pytest.mark.parametrize("other", [False, True])
def test_a_run_file_gives_the_configuration_that_it_was_written_of(
    tmp_path: Path, cls: type[FlatConfig], command: str, other: bool
) -> None:
    config: Any = cls.of()
    if other:
        changed = {name: other_value(name, value) for name, value in config.flat().items()}
        sg = dataclasses.replace(config.sg, kind="mlp", hidden=7, lr=1 / 3)
        config = cls.of(**changed | {"sg": sg, "seed": 7, "init": "a b.safetensors", "quiet": True})
    write_run_file(tmp_path, command, config)
    again = parse(cls, f"launch.{command}", ["--config", str(tmp_path / "config.yaml")])
    assert again == dataclasses.replace(
        config, output=dataclasses.replace(config.output, config=str(tmp_path / "config.yaml"))
    )


def test_every_option_of_a_training_but_those_of_one_run_is_in_the_file(tmp_path: Path) -> None:
    write_run_file(tmp_path, "train", TrainConfig.of())
    content = yaml.safe_load((tmp_path / "config.yaml").read_text())
    settings = content["settings"]
    written = [
        f"{key}.{each}" if isinstance(value, dict) else key
        for key, value in settings.items()
        for each in (value if isinstance(value, dict) else "-")
    ]
    assert sorted([*written, *NOT_REPEATED]) == sorted(TrainConfig.option_names())
    assert (content["dni_async"], content["command"]) == (version(), "train")


def test_options_override_the_file_and_what_it_does_not_name_has_its_default(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("settings: {lr: 1e-2, batch_size: 64, quiet: true, sg: {kind: mlp}, cut: 2}\n")
    options = ["--config", str(file), "--batch-size", "32", "--no-quiet"]
    config = parse(TrainConfig, "launch.train", options)
    assert (config.optimizer.lr, config.task.batch_size, config.output.quiet) == (0.01, 32, False)
    assert (config.sg.kind, config.partition.cut, config.task.epochs) == ("mlp", "2", 5)


def test_values_are_read_as_on_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("settings:\n  data-root:\n  epochs: 010\n  lr:\n  profile: 10:20\n  minutes: null\n")
    config = parse(TrainConfig, "launch.train", ["--config", str(file), "--out", "runs/a"])
    default = TrainConfig.of()
    assert (config.task.data_root, config.optimizer.lr) == (default.task.data_root, default.optimizer.lr)
    assert (config.task.epochs, config.logging.profile) == (10, "10:20")
    assert config.evaluation.minutes is None


def test_the_task_in_the_file_decides_what_kind_of_training_it_is(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("command: train\nsettings: {task: copy, bptt: 8}\n")
    config = configuration(["--config", str(file)])
    assert isinstance(config, SequenceConfig) and config.bptt == 8
    file.write_text("settings: {task: gpt-char}\n")
    assert parse(TrainConfig, "launch.train", ["--config", str(file)]).optimizer.name == "adamw"


def test_a_sweep_is_repeated_from_its_file(tmp_path: Path) -> None:
    config, _ = parse_sweep("launch.sweep", ["--engines", "cdni", "--vary", "in-flight=1/4"])
    assert isinstance(config, SweepConfig)
    write_run_file(tmp_path, "sweep", config)
    file = str(tmp_path / "config.yaml")
    again, contestants = parse_sweep("launch.sweep", ["--config", file, "--epochs", "2"])
    assert (again.engines, again.vary) == (config.engines, config.vary)
    assert [(c.config.partition.in_flight, c.config.task.epochs) for c in contestants] == [(1, 2), (4, 2)]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot read FILE (No such file or directory); give --config the config.yaml of a run"),
        ("settings: {lr: [", "FILE is no YAML ("),
        ("settings: {lr: 2020-13-45}", "Error parsing --lr: could not convert string to float"),
        ("settings: &a {sg: *a}", "FILE has a group of settings that contains itself; mend it"),
        ("settings: {lr: !!int much}", "FILE has a value that is none ("),
        ("- 1", "FILE has no settings; give --config the config.yaml of a run"),
        ("lr: 0.1", "FILE has no settings"),
        ("settings: {}\nlr: 0.1", "FILE has an unknown key (lr); put options below settings"),
        (
            "dni_async: 0.0.1\nsettings: {}",
            f"FILE was written by version 0.0.1, and this is {version()}, where options may mean",
        ),
        ("command: compare\nsettings: {}", "FILE is of launch.compare; give it to that command"),
        ("settings: {learning-rate: 1}", "FILE has an unknown option (learning-rate); take it out, or mend"),
        ("settings: {sg: {size: 1}}", "FILE has an unknown option (sg.size)"),
        ("settings: {lr: {size: 1}}", "FILE has an unknown option (lr.size)"),
        ("settings: {out: runs/a}", "FILE has an unknown option (out)"),
        ("settings: {lr: [1, 2]}", "Unrecognized options: 2"),
        ("settings: {lr: much}", "Error parsing --lr: could not convert string to float"),
        ("settings: {lr: -1}", "lr is -1.0; it must be positive"),
    ],
)
def test_a_wrong_file_is_one_line(tmp_path: Path, content: str | None, words: str) -> None:
    file = tmp_path / "c.yaml"
    if content is not None:
        file.write_text(content)
    with pytest.raises(UserError) as error:
        parse(TrainConfig, "launch.train", ["--config", str(file)])
    assert words in str(error.value).replace(str(file), "FILE") and "\n" not in str(error.value)
