"""From what the user typed to a `Task`: a name, or module:Class, and key=value settings."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import traceback
import types
import typing
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from dni_async.errors import UserError
from tasks.base import Task
from tasks.sequence.base import SequenceTask

BUILT_IN: Mapping[str, str] = MappingProxyType(
    {
        "mnist-fcn": "tasks.vision.mnist:MnistFcn",
        "mnist-cnn": "tasks.vision.mnist:MnistCnn",
        "mnist-residual": "tasks.vision.residual:MnistResidual",
        "digits-fcn": "tasks.vision.digits:DigitsFcn",
        "cifar-cnn": "tasks.vision.cifar:CifarCnn",
        "copy": "tasks.sequence.copying:Copy",
        "repeat-copy": "tasks.sequence.copying:RepeatCopy",
        "adding": "tasks.sequence.counting:Adding",
        "argmax": "tasks.sequence.counting:Argmax",
        "char-lm": "tasks.text.language:CharLM",
        "word-lm": "tasks.text.language:WordLM",
        "char-lm-stack": "tasks.text.layered:CharLMStack",
        "word-lm-stack": "tasks.text.layered:WordLMStack",
        "two-timescale": "tasks.sequence.two_timescale:TwoTimescale",
    }
)
"""Task names and the classes behind them, imported only when asked for."""

_TRUTH: Mapping[str, bool] = MappingProxyType(
    {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
)


def create(name: str, args: Sequence[str] = ()) -> Task:
    """The layered task called `name`: see `create_any`. Raises `UserError` for a task over time."""
    if issubclass(find(name), SequenceTask):
        stack = f", or take {name}-stack" if f"{name}-stack" in BUILT_IN else ""
        raise UserError(
            f"{name} is a task over time, which layers cannot share; train it with launch.train{stack}"
        )
    task = create_any(name, args)
    assert isinstance(task, Task)
    return task


def create_any(name: str, args: Sequence[str] = ()) -> Task | SequenceTask:
    """The task called `name` with settings `args`, each "key=value".

    name: one of `BUILT_IN`, or "my_pkg.my_task:MyTask" for a `Task` or `SequenceTask` that Python can
    import from here.
    A value is read as the type that the constructor's annotation (or else its default) says: int,
    float, bool, str, a tuple written with commas, or any of these `| None` ("none").
    Raises `UserError` when the name, a key or a value is not right.
    """
    cls = find(name)
    settings = _settings(cls, args)
    try:
        return cls(**settings)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"task refuses its settings ({name} {' '.join(args)}): {_line(error)}") from error


def find(name: str) -> type[Task] | type[SequenceTask]:
    """The class behind a task's name. Raises `UserError` when there is none, or it is no task."""
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


def _settings(cls: type[Task] | type[SequenceTask], args: Sequence[str]) -> dict[str, Any]:
    """The constructor's keyword arguments out of `args`."""
    accepted = _accepted(cls)
    settings: dict[str, Any] = {}
    for arg in args:
        key, equals, text = arg.partition("=")
        if not (key and equals):
            raise UserError(f"task setting without a value ({arg}): write key=value")
        if key not in accepted:
            keys = ", ".join(accepted) or "none at all"
            raise UserError(f"unknown task setting ({key}): {cls.__name__} takes {keys}")
        if key in settings:
            raise UserError(f"task setting given twice ({key}): give it once")
        settings[key] = _value(key, text, accepted[key][0])
    missing = [key for key, (_, needed) in accepted.items() if needed and key not in settings]
    if missing:
        raise UserError(f"task setting missing ({', '.join(missing)}): {cls.__name__} needs it as key=value")
    return settings


def _accepted(cls: type[Task] | type[SequenceTask]) -> dict[str, tuple[Any, bool]]:
    """The constructor's keywords, with the type of each and whether it must be given."""
    try:
        hints = typing.get_type_hints(cls.__init__)
    except NameError:  # an annotation imported for type checkers only: the defaults must do
        hints = {}
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    accepted: dict[str, tuple[Any, bool]] = {}
    for key, parameter in inspect.signature(cls).parameters.items():
        if parameter.kind in named:
            needed = parameter.default is inspect.Parameter.empty
            plain = str if needed or parameter.default is None else type(parameter.default)
            accepted[key] = (hints.get(key, plain), needed)
    return accepted


def _value(key: str, text: str, kind: Any) -> Any:
    """`text` as the type `kind`."""
    try:
        return _convert(text.strip(), kind)
    except (KeyError, ValueError):
        wanted = kind.__name__ if isinstance(kind, type) and not typing.get_args(kind) else kind
        raise UserError(f"bad value of a task setting ({key}={text}): give {wanted}") from None
    except TypeError:
        raise UserError(f"task setting that cannot be given as text ({key}={text}): it is a {kind}") from None


def _convert(text: str, kind: Any) -> Any:
    """Raises ValueError or KeyError when the text is wrong, TypeError when the type is not offered."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(text, inner)
    if kind is tuple or origin is tuple:
        return _convert_tuple(text, inner or (int, ...))
    if kind is bool:
        return _TRUTH[text.lower()]
    if kind in (int, float, str):
        return kind(text)
    raise TypeError(kind)


def _convert_union(text: str, options: tuple[Any, ...]) -> Any:
    if types.NoneType in options and text.lower() == "none":
        return None
    for option in options:
        if option is not types.NoneType:
            try:
                return _convert(text, option)
            except (KeyError, ValueError):
                continue
    raise ValueError(text)


def _convert_tuple(text: str, inner: tuple[Any, ...]) -> tuple[Any, ...]:
    parts = [part for part in text.removesuffix(",").split(",") if text]
    kinds = inner[:1] * len(parts) if inner[-1] is ... else inner
    if len(parts) != len(kinds):
        raise ValueError(text)
    return tuple(_convert(part.strip(), kind) for part, kind in zip(parts, kinds, strict=True))
