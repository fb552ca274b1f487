"""Arguments that only newer releases of torch know."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any


def known_arguments(function: Callable[..., Any], **arguments: Any) -> dict[str, Any]:
    """Return the keyword arguments that `function` of the installed torch has; older releases do without."""
    parameters = inspect.signature(function).parameters
    return {name: value for name, value in arguments.items() if name in parameters}
