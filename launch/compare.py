"""Engines side by side on one task, each in a job of its own.

python -m launch.compare --task mnist-fcn --engines backprop dni cdni --stages 2 --out runs/b
"""

from __future__ import annotations

from contextlib import nullcontext

from launch.config.command_line import parse
from launch.config.compare import CompareConfig
from launch.job.task_checks import check_until
from launch.local.comparison import run_engines
from launch.local.comparison_output import (
    check_all_finished,
    check_somebody_finished,
    comparison_folder,
    write_comparison,
)
from launch.local.wan import Wire, far_hosts
from launch.report.comparison_rows import make_rows
from launch.report.comparison_table import compare_grid, comparison_title, memory_grid
from launch.report.machine_load import MachineLoad
from tasks.registry import create
from workers.failure.rank_runner import RankRunner, run_command


def work(runner: RankRunner) -> None:
    """Run the contestants in turn, then write the tables, the data and the picture."""
    config = parse(CompareConfig, "launch.compare")
    task = create(config.task.name, config.task.task_args)
    check_until(task, config.evaluation.until)
    wire = Wire.parse(config.wan) if config.wan else None
    with comparison_folder(config, "compare") as out:
        load = MachineLoad()
        with far_hosts(config.partition.stages, wire) if wire else nullcontext() as hosts:
            runs = run_engines(config, task, out, runner, hosts)
        check_somebody_finished(runs)
        rows, title = make_rows(runs), comparison_title(task, runs, config.wan)
        grids = [compare_grid(rows, task.metric_name, title), memory_grid(rows, f"{title}: memory")]
        grids[0].notes += config.notes() + load.notes()
        from launch.report.comparison_plot import plot_compare  # matplotlib: a second that errors do not need

        write_comparison(config, task, title, rows, grids, out / "compare", plot_compare)
    check_all_finished(runs)


if __name__ == "__main__":
    run_command(work)
