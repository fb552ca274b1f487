"""Engines side by side on one task, each in a job of its own.

python -m launch.compare --task mnist-fcn --engines backprop dni cdni --stages 2 --out runs/b
"""

from __future__ import annotations

import json
import shutil
import tempfile
from contextlib import nullcontext
from pathlib import Path

from dni_async.errors import StageError, UserError
from launch.config.command_line import parse
from launch.config.compare import CompareConfig
from launch.config.engines import contestant_label
from launch.job.task_checks import check_until
from launch.local.launcher import run_local
from launch.local.wan import FarHosts, Wire, far_hosts
from launch.report.comparison_rows import Row, Run, make_rows
from launch.report.comparison_table import compare_grid, memory_grid
from launch.report.files import prepare_out, write_results
from launch.report.grid import Grid, show
from launch.report.text import conditions
from tasks.base import Task
from tasks.registry import create
from workers.failure.errors import AlreadyReported
from workers.failure.rank_runner import RankRunner, run_command


def work(runner: RankRunner) -> None:
    """Run the contestants in turn, then write the tables, the data and the picture."""
    config = parse(CompareConfig, "launch.compare")
    task = create(config.task.name, config.task.task_args)
    check_until(task, config.evaluation.until)
    out = prepare_out(config.output.out or tempfile.mkdtemp(prefix="dni_async-compare-"))
    with far_hosts(config.partition.stages, Wire.parse(config.wan)) if config.wan else nullcontext() as hosts:
        runs = run_engines(config, task, out, runner, hosts)
    check_somebody_finished(runs)
    rows = make_rows(runs)
    heading = title(task, runs, config.wan)
    grids = [compare_grid(rows, task.metric_name, heading), memory_grid(rows, f"{heading}: memory")]
    write(config, rows, grids, task, out)
    if not config.output.quiet:
        for grid in grids:
            show(grid)
            print()
        print(f"written to {out}")


def run_engines(
    config: CompareConfig, task: Task, out: Path, runner: RankRunner, hosts: FarHosts | None
) -> dict[str, list[Run]]:
    """All runs in turn, by the contestants' labels."""
    runs: dict[str, list[Run]] = {engine: [] for engine in config.engines}
    for repeat in range(config.repeats):
        for engine, so_far in runs.items():
            if any("error" in run for run in so_far):
                continue  # its row is decided
            runner.describe_position = lambda engine=engine: f"while {engine} ran"  # type: ignore[misc]
            so_far.append(run_engine(config, task, engine, out, repeat, hosts))
    return {contestant_label(engine): many for engine, many in runs.items()}


def run_engine(
    config: CompareConfig, task: Task, engine: str, out: Path, repeat: int, hosts: FarHosts | None = None
) -> Run:
    """One run of one contestant. A failure becomes its row: it may be bad input for this engine only."""
    name = contestant_label(engine)
    folder = out / (name if config.repeats == 1 else f"{name}-{repeat + 1}")
    job = config.job(engine, folder, repeat)
    if not config.output.quiet:
        stages = f"{job.partition.stages} stages" if job.partition.stages > 1 else "1 process"
        print(f"--- {name}, {stages}" + (f", run {repeat + 1}" if config.repeats > 1 else ""), flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    try:
        run_local(job, task, hosts)
    except AlreadyReported as failure:
        if failure.status > 2:
            raise
        return {"error": str(failure), "status": failure.status, "stages": job.partition.stages}
    except (StageError, UserError) as failure:
        status = 2 if isinstance(failure, UserError) else 1
        return {"error": str(failure), "status": status, "stages": job.partition.stages}
    return json.loads((folder / "summary.json").read_text())


def check_somebody_finished(runs: dict[str, list[Run]]) -> None:
    """Raises UserError when the input was bad for every engine, StageError when all failed otherwise."""
    failures = {engine: run for engine, many in runs.items() for run in many if "error" in run}
    if len(failures) < len(runs):
        return
    reasons = {run["error"]: engine for engine, run in failures.items()}
    reported = "; ".join(f"{engine}: {reason}" for reason, engine in reasons.items())
    bad_input = all(run["status"] == 2 for run in failures.values())
    one = next(iter(reasons)) if len(reasons) == 1 else f"every engine failed: {reported}"
    raise (UserError if bad_input else StageError)(one)


def title(task: Task, runs: dict[str, list[Run]], wan: str = "") -> str:
    """What was compared, on which data, and whether on devices or hosts that are only emulated."""
    done = [run for many in runs.values() for run in many if "error" not in run]
    parts = [task.name, f"{done[0]['dataset']['train']:,} training samples" if done else ""]
    parts += sorted({conditions(run) for run in done})
    parts += [str(Wire.parse(wan))] if wan else []
    return ", ".join(part for part in parts if part)


def write(config: CompareConfig, rows: list[Row], grids: list[Grid], task: Task, out: Path) -> None:
    """compare.json, compare.md and compare.png."""
    about = {"title": grids[0].title, "task": task.name, "metric_name": task.metric_name}
    write_results(out, "compare", about | {"settings": config.as_json(), "rows": rows}, grids)
    from launch.report.comparison_plot import (
        plot_compare,  # matplotlib: a second that --help and errors do not need
    )

    plot_compare(rows, out / "compare.png", grids[0].title, task.metric_name)


if __name__ == "__main__":
    run_command(work)
