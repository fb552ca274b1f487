"""Tasks by name: those that are built in, and a user's own as module:Class."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import traceback
import types
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from dni_async.errors import UserError
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
        "copy": "tasks.sequence.copying:Copy",
        "repeat-copy": "tasks.sequence.copying:RepeatCopy",
        "adding": "tasks.sequence.adding:Adding",
        "argmax": "tasks.sequence.argmax:Argmax",
        "char-lm": "tasks.text.through_time:CharLM",
        "word-lm": "tasks.text.through_time:WordLM",
        "char-lm-stack": "tasks.text.layered:CharLMStack",
        "word-lm-stack": "tasks.text.layered:WordLMStack",
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
    task = create_any(name, args)
    assert isinstance(task, Task)
    return task


def create_any(name: str, args: Sequence[str] = ()) -> Task | SequenceTask:
    """Return the task called `name` with the settings `args`.

    Args:
        name: one of `BUILT_IN`, or "my_pkg.my_task:MyTask" for a `Task` or `SequenceTask` that Python can
            import from the working folder.
        args: "key=value" settings of the task's constructor; see `settings_from`.

    Raises:
        UserError: the name, a key or a value is not right.
    """
    cls = find(name)
    settings = settings_from(cls, args)
    try:
        return cls(**settings)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"task refuses its settings ({name} {' '.join(args)}): {_line(error)}") from error


def find(name: str) -> type[Task] | type[SequenceTask]:
    """Return the class behind a task's name. Raises `UserError` when there is none, or it is no task."""
    module_name, colon, class_name = BUILT_IN.get(name, name).partition(":")
    if not (module_name and colon and class_name):
        known = ", ".join(BUILT_IN)
        raise UserError(
            f"unknown task ({name}): give one of {known}, or your own as my_package.my_module:MyTask"
        )
    found = getattr(_import(module_name), class_name, None)
    if found is None:
        raise UserError(f"task class not found ({class_name}): define it in {module_name}, or mend its name")
    if not (isinstance(found, type) and issubclass(found, (Task, SequenceTask))):
        raise UserError(f"not a task ({name}): derive the class from tasks.base.Task")
    if inspect.isabstract(found):
        lacking = ", ".join(sorted(found.__abstractmethods__))
        raise UserError(f"task is not complete ({name}): define {lacking}")
    return found


def _import(name: str) -> types.ModuleType:
    """Import the module `name`, the working folder included, as `python -m` does."""
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and f"{name}.".startswith(f"{error.name}."):
            raise UserError(f"task module not found ({name}): run where Python can import it") from error
        raise _broken(name, error) from error
    except Exception as error:  # whatever the user's module does wrong
        raise _broken(name, error) from error


def _broken(name: str, error: Exception) -> UserError:
    last = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{os.path.basename(last.filename)}:{last.lineno}"
    return UserError(f"task module cannot be imported ({name}): mend {_line(error)} (raised at {where})")


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
