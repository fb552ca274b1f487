"""Tasks by name: those that are built in, and a user's own as module:Class."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import cast

from dni_async.errors import UserError
from dni_async.plugins import describe, find_class
from tasks.base import Task
from tasks.sequence.base import SequenceTask
from tasks.settings import settings_from

BUILT_IN: Mapping[str, str] = MappingProxyType(
    {
        "mnist-fcn": "tasks.vision.mnist:MnistFcn",
        "mnist-cnn": "tasks.vision.mnist:MnistCnn",
        "mnist-residual": "tasks.vision.residual:MnistResidual",
        "digits-fcn": "tasks.vision.digits:DigitsFcn",
        "cifar-cnn": "tasks.vision.cifar:CifarCnn",
        "vit": "tasks.vision.vit:Vit",
        "copy": "tasks.sequence.copying:Copy",
        "repeat-copy": "tasks.sequence.copying:RepeatCopy",
        "adding": "tasks.sequence.adding:Adding",
        "argmax": "tasks.sequence.argmax:Argmax",
        "char-lm": "tasks.text.through_time:CharLM",
        "word-lm": "tasks.text.through_time:WordLM",
        "char-lm-stack": "tasks.text.layered:CharLMStack",
        "word-lm-stack": "tasks.text.layered:WordLMStack",
        "gpt-char": "tasks.text.gpt:CharGpt",
        "gpt-bpe": "tasks.text.gpt:BpeGpt",
        "induction": "tasks.text.induction:Induction",
        "two-timescale": "tasks.sequence.two_timescale:TwoTimescale",
    }
)
"""Task names and the classes behind them, imported only when asked for."""


def create(name: str, args: Sequence[str] = ()) -> Task:
    """Return the layered task called `name`; see `create_any`. Raises `UserError` for a task over time."""
    if issubclass(find(name), SequenceTask):
        stack = f", or take {name}-stack" if f"{name}-stack" in BUILT_IN else ""
        raise UserError(
            f"{name} is a task over time, which layers cannot share; train it with launch.train{stack}"
        )
    return cast(Task, create_any(name, args))


def create_any(name: str, args: Sequence[str] = ()) -> Task | SequenceTask:
    """Return the task called `name` with the settings `args`. Raises `UserError` if one is not right.

    Args:
        name: one of `BUILT_IN`, or "my_pkg.my_task:MyTask" for a `Task` or `SequenceTask` that Python can
            import from the working folder.
        args: "key=value" settings of the task's constructor; see `settings_from`.
    """
    cls = find(name)
    settings = settings_from(cls, args)
    try:
        return cls(**settings)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"task refuses its settings ({name} {' '.join(args)}): {describe(error)}") from error


def text_of(task: Task | SequenceTask) -> tuple[str, tuple[str, ...]]:
    """Return the name and the settings by which `create` makes such a task: those arguments of its
    constructor that it has as attributes of the same name."""
    path = f"{type(task).__module__}:{type(task).__qualname__}"
    name = next((name for name, known in BUILT_IN.items() if known == path), path)
    values = ((key, getattr(task, key, None)) for key in inspect.signature(type(task)).parameters)
    return name, tuple(f"{key}={value}" for key, value in values if isinstance(value, int | float | str))


def find(name: str) -> type[Task] | type[SequenceTask]:
    """Return the class behind a task's name. Raises `UserError` when there is none, or it is no task."""
    advice = f": give one of {', '.join(BUILT_IN)}, or your own as my_package.my_module:MyTask"
    return find_class(name, BUILT_IN, "task", Task, SequenceTask, advice=advice)
