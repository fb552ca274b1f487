"""Runs the jobs of a sweep in turn, and takes over those that an interrupted sweep has finished."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from launch.config.compare import contestant_label
from launch.config.sweep import Setting, SweepConfig
from launch.job.output_folder import SUMMARY
from launch.local.comparison import MARKER, check_folder, job_folder, marker_text, run_engine
from launch.local.wan import Wire, far_hosts
from launch.report.comparison_rows import Run
from launch.report.files import jsonable
from tasks.registry import create
from workers.failure.rank_runner import RankRunner

Combination = tuple[Setting, SweepConfig]

WITHOUT_EFFECT = ("out", "config", "quiet", "port", "timeout")
"""Settings that change nothing of what a run measures, so that a finished run counts with any of them."""


def run_sweep(
    combinations: Sequence[Combination], out: Path, runner: RankRunner
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
                    so_far.append(_run(setting, config, engine, folder_of(setting, out), repeat))
    return [(setting, contestant_label(engine), many) for setting, engine, many in runs]


def folder_of(setting: Setting, out: Path) -> Path:
    """Return the folder of all runs with a setting, such as OUT/in-flight=4 wire=int8."""
    return out / " ".join(f"{name}={value}" for name, value in setting.items()).replace("/", "_")


def _run(setting: Setting, config: SweepConfig, engine: str, out: Path, repeat: int) -> Run:
    if (finished := finished_run(config, engine, out, repeat)) is not None:
        return finished
    if not config.output.quiet:
        print(", ".join(f"{name} {value}" for name, value in setting.items()), end=" ", flush=True)
    wire = Wire.parse(config.wan) if config.wan else None
    task = create(config.task.name, config.task.task_args)
    with far_hosts(config.partition.stages, wire) if wire else nullcontext() as hosts:
        return run_engine(config, task, engine, out, repeat, hosts)


def finished_run(config: SweepConfig, engine: str, out: Path, repeat: int) -> Run | None:
    """Return the summary that an earlier sweep has left of this run; None if there is none, or if that run
    was interrupted or had other settings."""
    folder = job_folder(config, engine, out, repeat)
    marker, path = folder / MARKER, folder / SUMMARY
    if not (marker.is_file() and path.is_file()) or marker.read_text() != marker_text(config):
        return None
    summary: Run = json.loads(path.read_text())
    if "interrupted" in summary:
        return None
    wanted = json.loads(json.dumps(jsonable(config.job(engine, folder, repeat).as_json())))
    return summary if _measured(summary.get("settings", {})) == _measured(wanted) else None


def _measured(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name not in WITHOUT_EFFECT}
