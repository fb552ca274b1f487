"""Checks of values that users give; each raises UserError in one line."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dni_async import checks
from dni_async.errors import UserError


def at_least(low: int, **settings: int | None) -> None:
    """Raise UserError unless the values are at least `low`; None is allowed."""
    checks.at_least(low, **{option(name): value for name, value in settings.items() if value is not None})


def positive(**settings: float | None) -> None:
    """Raise UserError unless the values are positive and finite; None is allowed."""
    for name, value in settings.items():
        if value is not None and not 0 < value < math.inf:
            raise UserError(f"{option(name)} is {value}; it must be positive and finite")


def one_of(what: str, value: str, known: Sequence[str]) -> None:
    """Raise UserError unless the value is one of the known ones."""
    if value not in known:
        raise UserError(f"unknown {what} ({value}); use one of {', '.join(known)}")


def not_empty(**settings: str) -> None:
    """Raise UserError for an empty value."""
    for name, value in settings.items():
        if not value:
            raise UserError(f"{option(name)} is empty; give a value")


def option(name: str) -> str:
    """Return the name of a setting as on the command line, without dashes in front."""
    return name.replace("_", "-")
