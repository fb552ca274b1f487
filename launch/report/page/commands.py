"""The commands that repeat a run: by its config.yaml, and written out."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dni_async.errors import UserError
from launch.config.compare import CompareConfig
from launch.config.flat import FlatConfig
from launch.config.recurrent import SequenceConfig
from launch.config.run_file import NOT_REPEATED, RUN_FILE, option_arguments
from launch.config.train import TrainConfig
from launch.report.page.recorded_run import RecordedRun
from tasks.registry import find

AGAIN = "runs/again"


def commands_of_run(run: RecordedRun) -> list[str]:
    """Return the commands that train this run again."""
    settings = run.summary.get("settings", {})
    cls: type[FlatConfig] = SequenceConfig if "bptt" in settings else TrainConfig
    short = [repeat_command("train", run.folder)] if run.repeats else []
    return [*short, written_out("train", cls, settings)]


def commands_of_comparison(folder: Path, command: str, settings: Mapping[str, Any]) -> list[str]:
    """Return the commands that make a comparison again; of a sweep only that with its config.yaml."""
    short = [repeat_command(command, str(folder))] if (folder / RUN_FILE).is_file() else []
    return [*short, *([written_out(command, CompareConfig, settings)] if command == "compare" else [])]


def repeat_command(command: str, folder: str) -> str:
    """Return the command that reads config.yaml."""
    return f"python -m launch.{command} --config {shlex.quote(f'{folder}/{RUN_FILE}')} --out {AGAIN}"


def written_out(command: str, cls: type[FlatConfig], settings: Mapping[str, Any]) -> str:
    """Return the command with every option whose value is not the default, or that its task may have set."""
    usual = option_arguments(cls().as_json())
    of_task = _task_options(str(settings.get("task", "")))
    words = []
    for name, arguments in option_arguments(settings).items():
        if name not in NOT_REPEATED and (usual.get(name) != arguments or name in (*of_task, "task")):
            words += (
                arguments if len(arguments) > 1 or "=" not in arguments[0] else arguments[0].split("=", 1)
            )
    return shlex.join(["python", "-m", f"launch.{command}", *words, "--out", AGAIN])


def _task_options(name: str) -> set[str]:
    try:
        return {key.replace("_", "-") for key in getattr(find(name), "defaults", {})}
    except UserError:
        return set()  # the user's own module, which this process cannot import
