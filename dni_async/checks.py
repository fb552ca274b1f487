"""A check of numbers that users give."""

from __future__ import annotations

from typing import Any

from dni_async.errors import UserError


def at_least(low: int, **settings: Any) -> Any:
    """Return the value of the last setting, all of which must be whole numbers of at least `low`.

        self.depth, self.width = at_least(1, depth=depth), at_least(1, width=width)

    Raises:
        UserError: names the first setting that is something else.
    """
    value: Any = None
    for name, value in settings.items():
        if not isinstance(value, int) or isinstance(value, bool):
            raise UserError(f"{name} is {value!r}; it must be a whole number of at least {low}")
        if value < low:
            raise UserError(f"{name} is {value}; it must be at least {low}")
    return value
