"""Engines side by side on one task, each in a job of its own.

python -m launch.compare --task mnist-fcn --engines backprop dni cdni --stages 2 --out runs/b
"""

from __future__ import annotations

import tempfile
from contextlib import nullcontext
from pathlib import Path

from dni_async.errors import UserError
from launch.config.command_line import parse
from launch.config.compare import CompareConfig
from launch.job.output_folder import SUMMARY
from launch.job.run_lock import RunLock
from launch.job.task_checks import check_until
from launch.local.comparison import check_all_finished, check_somebody_finished, run_engines
from launch.local.wan import Wire, far_hosts
from launch.report.comparison_rows import Row, make_rows
from launch.report.comparison_table import compare_grid, comparison_title, memory_grid
from launch.report.files import prepare_out, write_results
from launch.report.grid import Grid, show
from tasks.base import Task
from tasks.registry import create
from workers.failure.rank_runner import RankRunner, run_command


def work(runner: RankRunner) -> None:
    """Run the contestants in turn, then write the tables, the data and the picture."""
    config = parse(CompareConfig, "launch.compare")
    task = create(config.task.name, config.task.task_args)
    check_until(task, config.evaluation.until)
    out = prepare_out(config.output.out or tempfile.mkdtemp(prefix="dni_async-compare-"))
    wire = Wire.parse(config.wan) if config.wan else None
    with RunLock(out):
        if (out / SUMMARY).is_file() or (out / "checkpoints").exists():
            raise UserError(f"{out} has the results of a training run; choose another --out")
        with far_hosts(config.partition.stages, wire) if wire else nullcontext() as hosts:
            runs = run_engines(config, task, out, runner, hosts)
        check_somebody_finished(runs)
        rows = make_rows(runs)
        heading = comparison_title(task, runs, config.wan)
        grids = [compare_grid(rows, task.metric_name, heading), memory_grid(rows, f"{heading}: memory")]
        grids[0].notes += config.notes()
        write(config, rows, grids, task, out)
    if not config.output.quiet:
        for grid in grids:
            show(grid)
            print()
        print(f"written to {out}")
    check_all_finished(runs)


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
