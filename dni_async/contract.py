"""Errors about what a class of the user returned: name, method, value, and what it must return."""

from __future__ import annotations

import json
from typing import Any

from torch import Tensor

from dni_async.errors import UserError


def wrong_value(owner: object, method: str, value: object, wanted: str, what: str = "") -> UserError:
    """Return the error that `owner.method` returned `value` where its contract says `wanted`.

    what: words about the value, such as " as sender".
    """
    returned = f"{describe_value(value)}{what}"
    return UserError(f"{_name(owner)}.{method} returned {returned}; it must return {wanted}")


def describe_value(value: object) -> str:
    """Return words for a value: of a tensor shape, type and device, else its type."""
    if isinstance(value, Tensor):
        return f"a tensor {tuple(value.shape)} of {value.dtype} on {value.device}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    return "None" if value is None else f"a value of type {type(value).__name__}"


def check_like(owner: object, method: str, value: object, like: Tensor) -> None:
    """Raise UserError unless `value` is a tensor of floats with the shape and device of `like`, (B, ...)."""
    if not (
        isinstance(value, Tensor)
        and value.is_floating_point()
        and value.shape == like.shape
        and value.device == like.device
    ):
        wanted = f"a tensor of floats {tuple(like.shape)} on {like.device}"
        raise wrong_value(owner, method, value, wanted)


def check_report(owner: object, method: str, value: object) -> dict[str, Any]:
    """Return `value`, which must be a dict of JSON.

    Raises:
        UserError: it is none, or holds something else, such as a tensor.
    """
    if not isinstance(value, dict):
        raise wrong_value(owner, method, value, "a dict")
    for name, part in value.items():
        try:
            json.dumps(part)
        except (TypeError, ValueError):
            raise wrong_value(owner, method, part, "numbers and text", f" as {name!r}") from None
    return value


def _name(owner: object) -> str:
    return owner.__name__ if isinstance(owner, type) else type(owner).__name__
