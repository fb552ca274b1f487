"""Engines side by side on one task, each in a job of its own.

python -m launch.compare --task mnist-fcn --engines backprop dni cdni --stages 2 --out runs/b
python -m launch.compare --variants cdni "cdni target-every=4 lr=2e-3" "1f1b micro-batches=8" --out runs/v
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from launch.config.compare import CompareConfig
from launch.config.contestants import Contestant, parse_comparison
from launch.job.task_checks import check_until
from launch.local.comparison import run_contestants
from launch.local.comparison_output import (
    check_all_finished,
    check_somebody_finished,
    comparison_folder,
    write_comparison,
)
from launch.report.comparison_rows import Row, make_rows
from launch.report.comparison_table import compare_grid, comparison_title, memory_grid
from launch.report.machine_load import MachineLoad
from tasks.base import Task
from tasks.registry import create
from workers.failure.rank_runner import RankRunner, run_command


def work(runner: RankRunner) -> None:
    """Run the contestants in turn, then write the tables, the data and the picture."""
    config, contestants = parse_comparison("launch.compare", sys.argv[1:])
    compare_contestants(config, contestants, runner)


def compare_contestants(
    config: CompareConfig, contestants: Sequence[Contestant], runner: RankRunner, task: Task | None = None
) -> list[Row]:
    """Run the contestants, write and show everything, and return the rows of the table.

    Args:
        task: that all train; by default that of the settings.

    Raises:
        UserError, StageError: a contestant has failed; what the others did is written.
    """
    shared, task = task, task or create(config.task.name, config.task.task_args)
    check_until(task, config.evaluation.until)
    with comparison_folder(config, "compare", contestants) as out:
        load = MachineLoad()
        many = run_contestants(contestants, out, runner, task=shared)
        runs: dict[str, Any] = {each.label: own for each, own in zip(contestants, many, strict=True)}
        check_somebody_finished(runs)
        rows, title = make_rows(runs), comparison_title(task, runs, config.wan)
        grids = [compare_grid(rows, task.metric_name, title), memory_grid(rows, f"{title}: memory")]
        grids[0].notes += config.notes() + load.notes()
        from launch.report.comparison_plot import plot_compare  # matplotlib: a second that errors do not need

        write_comparison(config, task, title, rows, grids, out / "compare", plot_compare)
    check_all_finished(runs)
    return rows


if __name__ == "__main__":
    run_command(work)
