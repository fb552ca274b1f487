"""Train from Python, without torchrun: for notebooks, scripts and tests."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dni_async.errors import StageError, UserError
from launch.config.task_defaults import task_defaults
from launch.config.train import TrainConfig
from launch.local.launcher import run_local
from launch.trained import TrainedNetwork, network_of, summary_of
from tasks.base import Task
from tasks.registry import create
from workers.failure.errors import AlreadyReported


class RankTraceback(Exception):
    """The traceback of a rank that has failed, shown as the cause of the failure."""


def fit(
    task: Task | str,
    *,
    stages: int = 1,
    rule: str = "cdni",
    epochs: int = 5,
    task_args: Sequence[str] = (),
    **settings: Any,
) -> TrainedNetwork:
    """Train `task` in `stages` local processes and return the run; `TrainConfig` has more settings.

        trained = fit("mnist-fcn", stages=2, rule="cdni", epochs=5)
        trained.summary["final"]["test_accuracy"], trained.model(x)

    Args:
        task: a `Task`, also one defined in a notebook, or a name as for --task.
        settings: all options of launch.train, by their flat names; by default those of the task.

    Raises:
        UserError: bad input, in one line.
        StageError: the run failed, in one line.
    """
    settings = {"quiet": True} | settings
    if isinstance(task, str):
        settings |= {"task": task, "task_args": tuple(task_args)}
        task = create(task, task_args)
    settings = task_defaults(task, TrainConfig, settings) | settings
    with tempfile.TemporaryDirectory(prefix="dni_async-fit-") as scratch:
        out = str(settings.pop("out", "") or scratch)
        config = TrainConfig.of(stages=stages, rule=rule, epochs=epochs, out=out, **settings)
        try:
            run_local(config, task)
        except AlreadyReported as failure:
            if failure.status == UserError.status:
                raise UserError(str(failure)) from None
            raise StageError(str(failure)) from _traceback_in(Path(out))
        return network_of(Path(out), summary_of(Path(out)), task)


def _traceback_in(out: Path) -> RankTraceback | None:
    """Return the last traceback that a rank has written to the folder; None if there is none."""
    logs = sorted(out.glob("rank-*.log"), key=lambda log: log.stat().st_mtime)
    return RankTraceback("\n" + logs[-1].read_text(encoding="utf-8")) if logs else None
