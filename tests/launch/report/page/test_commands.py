from __future__ import annotations

import shlex
from pathlib import Path

from launch.config.command_line import parse
from launch.config.compare import CompareConfig
from launch.config.train import TrainConfig
from launch.report.page.commands import commands_of_comparison, commands_of_run, written_out
from tests.support.recorded_runs import recorded


def test_the_command_written_out_makes_the_same_settings() -> None:
    config = TrainConfig.of(
        task="gpt-char",
        task_args=("depth=2",),
        stages=2,
        lr=0.01,
        quiet=True,
        milestones=(0.5,),
        out="x",
        report=False,
    )
    config.sg.kind = "linear"
    command = written_out("train", TrainConfig, config.as_json())
    words = shlex.split(command)
    assert words[:3] == ["python", "-m", "launch.train"] and words[-2:] == ["--out", "runs/again"]
    again = parse(TrainConfig, "launch.train", words[3:])
    assert again.as_json() | {"out": "x", "report": False} == config.as_json()


def test_the_command_names_the_task_and_what_is_not_the_default() -> None:
    command = written_out("train", TrainConfig, TrainConfig(task=TrainConfig().task).as_json())
    assert command == "python -m launch.train --task mnist-fcn --out runs/again"
    unknown = written_out("train", TrainConfig, {"task": "no_such_module:Task", "epochs": 7})
    assert unknown == "python -m launch.train --task no_such_module:Task --epochs 7 --out runs/again"


def test_a_folder_with_its_settings_is_repeated_by_them(tmp_path: Path) -> None:
    run = recorded()
    assert len(commands_of_run(run)) == 1
    run.folder, run.repeats = "runs/my run", True
    assert commands_of_run(run)[0] == (
        "python -m launch.train --config 'runs/my run/config.yaml' --out runs/again"
    )
    (tmp_path / "config.yaml").touch()
    settings = CompareConfig.of(engines=("cdni", "local")).as_json()
    short, long = commands_of_comparison(tmp_path, "compare", settings)
    assert short.startswith("python -m launch.compare --config ")
    assert "--engines cdni local" in long
