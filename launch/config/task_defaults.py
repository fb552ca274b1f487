"""Settings of a training that a task has as its own defaults (see `Task.defaults`)."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from dni_async.errors import UserError
from launch.config.flat import FlatConfig
from launch.config.train import TrainConfig
from tasks.base import Task

OF_THE_OPTIMIZER = ("optimizer_args", "param_groups")
"""Settings that go with one optimizer."""


def task_defaults(
    task: Task | type[Task], cls: type[FlatConfig], given: Collection[str] = ()
) -> dict[str, Any]:
    """Return those of the task's defaults that `cls` has as settings.

    Args:
        given: names of settings that the user gives. With "optimizer" among them, the defaults that go with
            the task's own optimizer are left out.

    Raises:
        UserError: a default is no setting of a training.
    """
    defaults = dict(task.defaults)
    if unknown := sorted(set(defaults) - set(TrainConfig.setting_names())):
        name = task.__name__ if isinstance(task, type) else task.name
        raise UserError(f"defaults of task {name} have {unknown[0]}, which is no setting of launch.train")
    if "optimizer" in given:
        defaults = {key: value for key, value in defaults.items() if key not in OF_THE_OPTIMIZER}
    own = set(cls.setting_names())
    return {key: value for key, value in defaults.items() if key in own}
