"""What the number of stages, or batches in flight, does to learning under several rules.

python -m launch.study --task mnist-residual --rules backprop cdni delayed --vary stages=2/4/8 --out runs/s

All stages run in this process, so results do not depend on how fast or how busy the machine is.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dni_async.errors import UserError
from launch.config.study import StudyConfig, StudyJob, parse_study
from launch.job.in_process import train_in_process
from launch.job.output_folder import SUMMARY
from launch.job.run_lock import RunLock
from launch.job.task_checks import check_until
from launch.local.finished_run import WITHOUT_EFFECT
from launch.report.files import jsonable, prepare_out, write_results
from launch.report.grid import show
from launch.report.study_tables import Result, study_grids
from tasks.registry import create
from workers.failure.rank_runner import RankRunner, run_command
from workers.runtime.device import place


def work(runner: RankRunner) -> None:
    """Run all jobs; tables, picture and data are rewritten after each, so that a study may be stopped."""
    config, jobs = parse_study("launch.study", sys.argv[1:])
    task = create(config.task.name, config.task.task_args)
    check_until(task, config.evaluation.until)
    place("cpu", config.runtime.threads, 0, 1)
    out = prepare_out(config.output.out or tempfile.mkdtemp(prefix="dni_async-study-"))
    with RunLock(out):
        if (out / SUMMARY).is_file() or (out / "checkpoints").exists():
            raise UserError(f"{out} has the results of a training run; choose another --out")
        earlier = finished_runs(out)
        runs = {job: finished_run(job, earlier) for job in jobs}
        if lost := [run for run in earlier if run not in runs.values()]:
            raise UserError(
                f"{out} has runs with other settings, such as {lost[0]['label']} with {lost[0]['value']}; "
                "choose another --out"
            )
        for job in [job for job in jobs if runs[job] is None]:
            runner.describe_position = lambda job=job: f"while {job.contestant.label} trained"  # type: ignore[misc]
            runs[job] = _run(job, config)
            write(config, task.metric_name, _finished(runs), out)
        results = _finished(runs)
        write(config, task.metric_name, results, out)
    if not config.output.quiet:
        for grid in study_grids(results, config.vary, task.metric_name, task.name):
            show(grid)
            print()
        print(f"written to {out}")


def finished_runs(out: Path) -> list[Result]:
    """Return the runs that an earlier study has left in its folder."""
    path = out / "study.json"
    return json.loads(path.read_text())["runs"] if path.is_file() else []


def finished_run(job: StudyJob, runs: list[Result]) -> Result | None:
    """Return the run of this name, value and settings. Settings that change no result do not count, nor those
    that only one of the versions has that wrote and that reads it."""
    wanted = settings_of(job)
    for run in runs:
        if (run["label"], run["value"]) == (job.contestant.label, job.value):
            settings = run["settings"]
            shared = settings.keys() & wanted.keys() - set(WITHOUT_EFFECT)
            if all(settings[name] == wanted[name] for name in shared):
                return run
    return None


def _finished(runs: Mapping[StudyJob, Result | None]) -> list[Result]:
    return [run for run in runs.values() if run is not None]


def settings_of(job: StudyJob) -> dict[str, Any]:
    """Return the settings of a run as files hold them, each under a name of its own."""
    settings: dict[str, Any] = {}
    for name, value in jsonable(job.config.as_json()).items():
        settings |= (
            {f"{name}.{key}": v for key, v in value.items()} if isinstance(value, dict) else {name: value}
        )
    return settings


def _run(job: StudyJob, config: StudyConfig) -> Result:
    task = create(job.config.task.name, job.config.task.task_args)
    learned: dict[str, Any] = train_in_process(job.config, task)
    result = {"label": job.contestant.label, "value": job.value} | learned
    result["settings"] = settings_of(job)
    if not config.output.quiet:
        where = f"{config.vary.partition('=')[0]} {job.value}, seed {job.config.task.seed}"
        print(f"{job.contestant.label}, {where}: {result['test_metric']:.4g}", flush=True)
    return result


def write(config: StudyConfig, metric_name: str, results: list[Result], out: Path) -> None:
    """Write study.json, study.md and study.png."""
    grids = study_grids(results, config.vary, metric_name, config.task.name)
    write_results(out, "study", {"settings": config.as_json(), "runs": results}, grids)
    from launch.report.study_plot import plot_study  # matplotlib: a second that errors do not need

    plot_study(results, out / "study.png", config.vary, metric_name, config.task.name)


if __name__ == "__main__":
    run_command(work)
