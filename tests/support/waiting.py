"""Waiting for other processes, with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable


def until(condition: Callable[[], bool], timeout: float, what: str) -> None:
    """Poll until `condition` holds."""
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, f"{what} did not happen in {timeout} s"
        time.sleep(0.02)
