"""The types of settings that are given in Python. Those of a command line are checked by its parser."""

from __future__ import annotations

import os
from functools import cache
from numbers import Integral, Real
from typing import Any, get_args, get_origin, get_type_hints

from dni_async.errors import UserError
from launch.config.checks import option

NAMES = {int: "a whole number", float: "a number", str: "a text", bool: "True or False"}
"""What values of a type are called."""


def checked_settings(cls: type, settings: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    """Return values for fields of a dataclass: a list, or one text, as a tuple where the field is a tuple; a
    path as text.

    Args:
        settings: by the names of the fields.
        names: what the fields are called for the user.

    Raises:
        UserError: a value has another type than its field.
    """
    hints = _hints(cls)
    return {field: _checked(names[field], value, hints[field]) for field, value in settings.items()}


@cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


def _checked(name: str, value: Any, hint: Any) -> Any:
    kinds = get_args(hint) if get_origin(hint) is not tuple else ()
    if kinds:  # a choice of values or of types, one of which may be None
        kind = kinds[0]
        return value if type(None) not in kinds or value is None else _checked(name, value, kind)
    if get_origin(hint) is tuple:
        return _checked_tuple(name, value, get_args(hint)[0])
    if hint is str and isinstance(value, os.PathLike):
        return os.fspath(value)
    if not _is(value, hint):
        wanted = NAMES.get(hint) or f"of type {hint.__name__}"
        raise UserError(f"{option(name)} is {value!r}; it must be {wanted}")
    return value


def _checked_tuple(name: str, value: Any, kind: type) -> tuple[Any, ...]:
    values = (value,) if isinstance(value, str) else value
    if not isinstance(values, tuple | list) or not all(_is(each, kind) for each in values):
        raise UserError(f"{option(name)} is {value!r}; give a list, of which each is {NAMES[kind]}")
    return tuple(values)


def _is(value: Any, kind: type) -> bool:
    if kind in (int, float):
        return isinstance(value, Integral if kind is int else Real) and not isinstance(value, bool)
    return isinstance(value, kind)
