"""A task's settings: the key=value texts of --task-args, as the types of its constructor."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from dni_async.errors import UserError

_TRUTH: Mapping[str, bool] = MappingProxyType(
    {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
)


def settings_from(cls: type, args: Sequence[str]) -> dict[str, Any]:
    """Return the keyword arguments of the constructor of `cls` from "key=value" texts.

    Its `**keywords`, if it has any, are those of the constructor of the class `cls.keywords_of`.

    A value is read as the type that the constructor's annotation (or else its default) says: int, float,
    bool, str, a tuple written with commas, or any of these `| None` ("none").

    Raises:
        UserError: a key is unknown, given twice or missing, or a value is not of its type.
    """
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


def _accepted(cls: type) -> dict[str, tuple[Any, bool]]:
    """Return the constructor's keywords, the type of each and whether it must be given."""
    try:
        hints = typing.get_type_hints(cls.__init__)  # type: ignore[misc]
    except NameError:  # an annotation imported for type checkers only: the defaults say the types
        hints = {}
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    accepted: dict[str, tuple[Any, bool]] = {}
    for key, parameter in inspect.signature(cls).parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD and hasattr(cls, "keywords_of"):
            accepted = _accepted(cls.keywords_of) | accepted
        elif parameter.kind in named:
            needed = parameter.default is inspect.Parameter.empty
            plain = str if needed or parameter.default is None else type(parameter.default)
            accepted[key] = (hints.get(key, plain), needed)
    return accepted


def _value(key: str, text: str, kind: Any) -> Any:
    """Return `text` as the type `kind`."""
    try:
        return _convert(text.strip(), kind)
    except (KeyError, ValueError):
        wanted = kind.__name__ if isinstance(kind, type) and not typing.get_args(kind) else kind
        raise UserError(f"bad value of a task setting ({key}={text}): give {wanted}") from None
    except TypeError:
        raise UserError(f"task setting that cannot be given as text ({key}={text}): it is a {kind}") from None


def _convert(text: str, kind: Any) -> Any:
    """Return `text` as `kind`. Raises ValueError or KeyError for a wrong text, TypeError for another type."""
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
