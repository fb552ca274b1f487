"""Runs the jobs of a sweep in turn, and takes over those that an interrupted sweep has finished."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from launch.config.compare import contestant_label
from launch.config.sweep import Setting, SweepConfig
from launch.local.comparison import MARKER, check_folder, job_folder, run_engine
from launch.local.wan import Wire, far_hosts
from launch.report.comparison_rows import Run
from launch.report.files import jsonable
from tasks.base import Task
from workers.failure.rank_runner import RankRunner

Combination = tuple[Setting, SweepConfig]


def run_sweep(
    combinations: Sequence[Combination], task: Task, out: Path, runner: RankRunner
) -> list[tuple[Setting, str, list[Run]]]:
    """All runs, by setting and the contestant's label: repeats outside, then settings, then engines.

    Raises:
        UserError: a folder of a job holds something else; nothing has been run then.
    """
    first = combinations[0][1]
    for setting, config in combinations:
        for repeat in range(config.repeats):
            for engine in config.engines:
                check_folder(job_folder(config, engine, folder_of(setting, out), repeat))
    runs: list[tuple[Setting, str, list[Run]]] = [
        (setting, engine, []) for setting, config in combinations for engine in config.engines
    ]
    for repeat in range(first.repeats):
        table = iter(runs)
        for setting, config in combinations:
            for engine in config.engines:
                *_, so_far = next(table)
                if not any("error" in run for run in so_far):  # else its row is decided
                    runner.describe_position = lambda engine=engine: f"while {engine} ran"  # type: ignore[misc]
                    so_far.append(_run(setting, config, task, engine, folder_of(setting, out), repeat))
    return [(setting, contestant_label(engine), many) for setting, engine, many in runs]


def folder_of(setting: Setting, out: Path) -> Path:
    """Return the folder of all runs with a setting, such as OUT/in-flight=4 wire=int8."""
    return out / " ".join(f"{name}={value}" for name, value in setting.items()).replace("/", "_")


def _run(setting: Setting, config: SweepConfig, task: Task, engine: str, out: Path, repeat: int) -> Run:
    if (finished := finished_run(config, engine, out, repeat)) is not None:
        return finished
    if not config.output.quiet:
        print(", ".join(f"{name} {value}" for name, value in setting.items()), end=" ", flush=True)
    wire = Wire.parse(config.wan) if config.wan else None
    with far_hosts(config.partition.stages, wire) if wire else nullcontext() as hosts:
        return run_engine(config, task, engine, out, repeat, hosts)


def finished_run(config: SweepConfig, engine: str, out: Path, repeat: int) -> Run | None:
    """Return the summary that an earlier sweep has left of this run; None if there is none with the same
    settings."""
    folder = job_folder(config, engine, out, repeat)
    if not ((folder / MARKER).is_file() and (folder / "summary.json").is_file()):
        return None
    summary: Run = json.loads((folder / "summary.json").read_text())
    wanted = jsonable(config.job(engine, folder, repeat).as_json())
    return summary if summary.get("settings") == json.loads(json.dumps(wanted)) else None
