"""Engines with every combination of some settings, each in a job of its own.

python -m launch.sweep --engines cdni delayed --vary in-flight=1/4/16 --out runs/s
python -m launch.sweep --engines cdni local --vary task=mnist-fcn/mnist-cnn --out runs/t
python -m launch.sweep --engines cdni 1f1b --vary wan=0.1,1000/25,1000 --out runs/w    (needs root)
"""

from __future__ import annotations

import sys

from launch.config.sweep import parse_sweep
from launch.job.task_checks import check_until
from launch.local.comparison import run_contestants
from launch.local.comparison_output import (
    check_all_finished,
    check_somebody_finished,
    comparison_folder,
    write_comparison,
)
from launch.report.comparison_table import comparison_title
from launch.report.sweep_table import metric_grid, sweep_grid, sweep_rows, throughput_grid
from tasks.registry import create
from workers.failure.rank_runner import RankRunner, run_command


def work(runner: RankRunner) -> None:
    """Run every combination in turn, then write the tables, the data and the picture."""
    config, contestants = parse_sweep("launch.sweep", sys.argv[1:])
    tasks = [create(each.config.task.name, each.config.task.task_args) for each in contestants]
    for task in tasks:
        check_until(task, config.evaluation.until)
    with comparison_folder(config, "sweep", contestants) as out:
        many = run_contestants(contestants, out, runner, goes_on=True)
        runs = [(each.setting, each.label, own) for each, own in zip(contestants, many, strict=True)]
        by_name = {f"{engine} with {setting}": own for setting, engine, own in runs}
        check_somebody_finished(by_name)
        rows, title = sweep_rows(runs), comparison_title(tasks[0], by_name, config.wan)
        grids = [throughput_grid(rows, title), sweep_grid(rows, title)]
        if "task" in contestants[0].setting:
            title = f"{len({task.name for task in tasks})} tasks, {config.partition.stages} stages"
            grids = [metric_grid(rows, title), throughput_grid(rows, title), sweep_grid(rows, title)]
        from launch.report.sweep_plot import plot_sweep  # matplotlib: a second that errors do not need

        write_comparison(config, tasks[0], title, rows, grids, out / "sweep", plot_sweep)
    check_all_finished(by_name)


if __name__ == "__main__":
    run_command(work)
