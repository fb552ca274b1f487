"""Engines with every combination of some settings, each in a job of its own.

python -m launch.sweep --engines cdni delayed --vary in-flight=1/4/16 --out runs/s
python -m launch.sweep --engines cdni 1f1b --vary wan=0.1,1000/25,1000 --out runs/w    (needs root)
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from launch.config.sweep import SweepConfig, parse_sweep
from launch.job.run_lock import RunLock
from launch.job.task_checks import check_until
from launch.local.comparison import check_all_finished, check_somebody_finished
from launch.local.sweeping import run_sweep
from launch.report.comparison_rows import Row
from launch.report.comparison_table import comparison_title
from launch.report.files import prepare_out, write_results
from launch.report.grid import Grid, show
from launch.report.sweep_table import sweep_grid, sweep_rows, throughput_grid
from tasks.base import Task
from tasks.registry import create
from workers.failure.rank_runner import RankRunner, run_command


def work(runner: RankRunner) -> None:
    """Run every combination in turn, then write the tables, the data and the picture."""
    config, combinations = parse_sweep("launch.sweep", sys.argv[1:])
    task = create(config.task.name, config.task.task_args)
    check_until(task, config.evaluation.until)
    out = prepare_out(config.output.out or tempfile.mkdtemp(prefix="dni_async-sweep-"))
    with RunLock(out):
        runs = run_sweep(combinations, task, out, runner)
        by_name = {f"{engine} with {setting}": many for setting, engine, many in runs}
        check_somebody_finished(by_name)
        rows, title = sweep_rows(runs), comparison_title(task, by_name, config.wan)
        grids = [throughput_grid(rows, title), sweep_grid(rows, task.metric_name, title)]
        write(config, rows, grids, task, out)
    if not config.output.quiet:
        for grid in grids:
            show(grid)
            print()
        print(f"written to {out}")
    check_all_finished(by_name)


def write(config: SweepConfig, rows: list[Row], grids: list[Grid], task: Task, out: Path) -> None:
    """sweep.json, sweep.md and sweep.png."""
    title = grids[-1].title
    about = {"title": title, "task": task.name, "metric_name": task.metric_name}
    write_results(out, "sweep", about | {"settings": config.as_json(), "rows": rows}, grids)
    from launch.report.sweep_plot import plot_sweep  # matplotlib: a second that --help and errors do not need

    plot_sweep(rows, out / "sweep.png", title, task.metric_name)


if __name__ == "__main__":
    run_command(work)
