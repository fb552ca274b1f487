"""Train from Python, without torchrun: for notebooks, scripts and tests."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dni_async.errors import StageError, UserError
from launch.config.command_line import parse
from launch.config.task_defaults import task_defaults
from launch.config.train import TrainConfig
from launch.local.launcher import run_local
from launch.report.live_records import Callback, LiveRecords
from launch.report.notebook import NotebookProgress, in_notebook
from launch.trained import TrainedNetwork, network_of, summary_of
from tasks.base import Metric, Task, add_metrics
from tasks.registry import create, text_of
from workers.failure.errors import AlreadyReported

_RUNNING = threading.Lock()
"""Held while a job runs: its ranks get what they need by the environment of this process."""


class RankTraceback(Exception):
    """The traceback of a rank that has failed, shown as the cause of the failure."""


def fit(
    task: Task | str | None = None,
    *,
    config: TrainConfig | str | os.PathLike[str] | None = None,
    stages: int | None = None,
    rule: str | None = None,
    epochs: int | None = None,
    task_args: Sequence[str] | None = None,
    metrics: Mapping[str, Metric] | None = None,
    on_step: Callback | None = None,
    on_evaluation: Callback | None = None,
    on_epoch: Callback | None = None,
    progress: bool | None = None,
    **settings: Any,
) -> TrainedNetwork:
    """Train `task` in `stages` local processes and return what was trained.

        trained = fit("mnist-fcn", stages=2, rule="cdni", epochs=5)
        trained.summary["final"]["test_accuracy"], trained.predict(x)

    Stages train in processes of their own, which are new interpreters: it does not matter whether this one
    has threads or has initialised CUDA. Callbacks run in the thread that called `fit`, ten times a second at
    most, from the records that the first stage writes; training does not wait for them. An error in a
    callback ends the run and is raised here.

    Args:
        task: a `Task`, also one defined in a notebook, or a name as for --task. By default that of `config`.
        config: settings to start from, or the config.yaml of a run; other arguments override them.
        stages, rule, epochs: by default 1, cdni and 5.
        task_args: settings of a task that is given by its name; by default those of `config`, if it has them.
        metrics: more metrics of evaluations, by name: functions of outputs and targets of a batch that
            return scores (B,), or a number, their mean. Records have them as `test_NAME`.
        on_step: called with a record about once a second while training goes on: `step`, `epoch`, `seconds`,
            `loss`, `samples_per_s`, and what each stage reports as `stages`.
        on_evaluation: called with the record of each evaluation: `test_loss`, `test_accuracy` and others.
        on_epoch: called with the record of the evaluation at the end of each epoch.
        progress: whether to show a table of the evaluations as they come; by default in notebooks.
        settings: all options of launch.train, by their flat names (see `TrainConfig`); by default those of
            the task.

    Raises:
        UserError: bad input, in one line; or another thread trains.
        StageError: the run failed, in one line.
    """
    chosen = {"stages": stages, "rule": rule, "epochs": epochs}
    settings |= {name: value for name, value in chosen.items() if value is not None}
    base = _settings_of(config)
    task, named = task_of(task, task_args, base)
    add_metrics(task, metrics or {})
    base = base or ({"stages": 1} | task_defaults(task, TrainConfig, settings))
    with tempfile.TemporaryDirectory(prefix="dni_async-fit-") as scratch:
        out = Path(settings.pop("out", "") or base.get("out") or scratch)
        made = TrainConfig.of(**base | {"quiet": True} | named | settings | {"out": str(out)})
        records = LiveRecords(out, on_step, on_evaluation, on_epoch)
        if progress or (progress is None and in_notebook()):
            records.add(NotebookProgress(task.name, made.task.epochs, task.metric_name).show)
        with one_job_at_a_time(out):
            run_local(made, task, watch=records.deliver)
        records.deliver()
        return network_of(out, summary_of(out), task)


def task_of(
    task: Task | str | None, task_args: Sequence[str] | None, base: Mapping[str, Any]
) -> tuple[Task, dict[str, Any]]:
    """Return a task and the settings that name it, as files of the run have them.

    Args:
        task: a task, its name, or None for that of the settings `base`.
        task_args: of a task that is named; None for those of the settings `base` if it is their task.

    Raises:
        UserError: there is no such task, or a task that is no name has `task_args`.
    """
    if task is None:
        if "task" not in base:
            raise UserError("no task given; give one, or a config that names one")
        task = str(base["task"])
    if isinstance(task, str):
        if task_args is None:
            task_args = base["task_args"] if task == base.get("task") else ()
        task_args = (task_args,) if isinstance(task_args, str) else tuple(task_args)
        return create(task, task_args), {"task": task, "task_args": task_args}
    if task_args:
        kind = type(task).__name__
        raise UserError(f"task_args is {task_args!r}; give the settings to the constructor of {kind}")
    name, args = text_of(task)
    return task, {"task": name, "task_args": args}


@contextmanager
def one_job_at_a_time(out: Path) -> Iterator[None]:
    """Let a job run in the block; a failure that a rank has printed is raised with its traceback.

    Raises:
        UserError: bad input; or a job of another thread runs.
        StageError: the job failed.
    """
    if not _RUNNING.acquire(blocking=False):
        raise UserError("another thread of this process trains; wait for it, or train in another process")
    try:
        yield
    except AlreadyReported as failure:
        if failure.status == UserError.status:
            raise UserError(str(failure)) from None
        raise StageError(str(failure)) from _traceback_in(out)
    finally:
        _RUNNING.release()


def _settings_of(config: TrainConfig | str | os.PathLike[str] | None) -> dict[str, Any]:
    if config is None:
        return {}
    if not isinstance(config, TrainConfig):
        config = parse(TrainConfig, "launch.train", ["--config", os.fspath(config)])
    return config.flat() | {"config": ""}


def _traceback_in(out: Path) -> RankTraceback | None:
    """Return the last traceback that a rank has written to the folder; None if there is none."""
    logs = sorted(out.glob("rank-*.log"), key=lambda log: log.stat().st_mtime)
    return RankTraceback("\n" + logs[-1].read_text(encoding="utf-8")) if logs else None
