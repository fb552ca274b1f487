"""A comparison from its contestants to its files, for the command line and for Python."""

from __future__ import annotations

from collections.abc import Sequence

from launch.config.compare import CompareConfig
from launch.config.contestants import Contestant
from launch.job.task_checks import check_until
from launch.local.comparison import run_contestants
from launch.local.comparison_output import check_somebody_finished, comparison_folder, write_comparison
from launch.report.comparison_rows import Row, Run, make_rows
from launch.report.comparison_table import compare_grid, comparison_title, memory_grid
from launch.report.machine_load import MachineLoad
from tasks.base import Task
from tasks.registry import create
from workers.failure.rank_runner import RankRunner


def compare_contestants(
    config: CompareConfig, contestants: Sequence[Contestant], runner: RankRunner, task: Task | None = None
) -> tuple[list[Row], dict[str, list[Run]]]:
    """Run the contestants in turn, write and show everything; return the rows, and the runs by label.

    Args:
        task: that all train; by default that of the settings.

    Raises:
        UserError, StageError: every contestant has failed, or the folder is not free.
    """
    shared, task = task, task or create(config.task.name, config.task.task_args)
    check_until(task, config.evaluation.until)
    with comparison_folder(config, "compare", contestants) as out:
        load = MachineLoad()
        many = run_contestants(contestants, out, runner, task=shared)
        runs = {each.label: own for each, own in zip(contestants, many, strict=True)}
        check_somebody_finished(runs)
        rows, title = make_rows(runs), comparison_title(task, runs, config.wan)
        grids = [compare_grid(rows, task.metric_name, title), memory_grid(rows, f"{title}: memory")]
        grids[0].notes += config.notes() + load.notes()
        from launch.report.comparison_plot import plot_compare  # matplotlib: a second that errors do not need

        write_comparison(config, task, title, rows, grids, out / "compare", plot_compare)
    return rows, runs
