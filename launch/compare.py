"""Engines side by side on one task, each in a job of its own.

python -m launch.compare --task mnist-fcn --engines backprop dni cdni --stages 2 --out runs/b
python -m launch.compare --variants cdni "cdni target-every=4 lr=2e-3" "1f1b micro-batches=8" --out runs/v

From Python, in a notebook:

pandas.DataFrame(compare("mnist-fcn", engines=["backprop", "cdni"], stages=2))
"""

from __future__ import annotations

import dataclasses
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from launch.config.compare import CompareConfig
from launch.config.contestants import parse_comparison
from launch.config.run_file import arguments_of
from launch.config.task_defaults import task_defaults
from launch.fit import one_job_at_a_time, task_of
from launch.local.comparing import compare_contestants
from launch.local.comparison_output import check_all_finished
from launch.report.comparison_rows import flat_row
from tasks.base import Task
from workers.failure.rank_runner import RankRunner, run_command


def compare(
    task: Task | str,
    *,
    engines: Sequence[str] = (),
    variants: Sequence[str] = (),
    task_args: Sequence[str] = (),
    **settings: Any,
) -> list[dict[str, Any]]:
    """Run engines on a task, each in a job of its own, and return a row for each, which pandas reads.

        pandas.DataFrame(compare("mnist-fcn", variants=["backprop", "cdni", "cdni lr=2e-3"], repeats=3))

    Args:
        task: a `Task`, also one defined in a notebook, or a name as for --task.
        engines: by default backprop, dni and cdni.
        variants: instead of engines, engines with settings of their own, as for --variants.
        task_args: settings of a task that is given by its name.
        settings: all other options of launch.compare, by their flat names (see `CompareConfig`).

    Returns:
        Rows of numbers and texts: `engine`, `stages`, `samples_per_s`, `speedup`, `test_accuracy` (or the
        task's metric), `train_s`, ...; medians, with `_min` and `_max` beside them if there are several runs.
        What was measured for each stage is a list. A row of an engine that failed has an `error` instead.

    Raises:
        UserError: bad input, in one line.
        StageError: every engine failed, in one line.
    """
    found, named = task_of(task, task_args, {})
    defaults = task_defaults(found, CompareConfig, settings)
    given = {"quiet": True} | defaults | named | settings
    given |= {name: value for name, value in (("engines", engines), ("variants", variants)) if value}
    with tempfile.TemporaryDirectory(prefix="dni_async-compare-") as scratch:
        out = Path(given.pop("out", "") or scratch)
        arguments = arguments_of(_plain(given) | {"out": str(out)})
        config, contestants = parse_comparison("launch.compare", arguments)
        with one_job_at_a_time(out):
            shared = found if isinstance(task, Task) else None
            rows, _ = compare_contestants(config, contestants, RankRunner(), shared)
    return [flat_row(row) for row in rows]


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with dictionaries in place of `SGConfig` and the like."""
    return {
        name: dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value  # type: ignore[arg-type]
        for name, value in settings.items()
    }


def work(runner: RankRunner) -> None:
    """Run the contestants in turn, then write the tables, the data and the picture."""
    config, contestants = parse_comparison("launch.compare", sys.argv[1:])
    _, runs = compare_contestants(config, contestants, runner)
    check_all_finished(runs)


if __name__ == "__main__":
    run_command(work)
