"""Waiting for other processes and threads, with a deadline."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

THREAD_TIMEOUT_S = 30.0
"""Seconds after which a thread should have ended."""


def until(condition: Callable[[], bool], timeout: float, what: str) -> None:
    """Poll until `condition` holds."""
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, f"{what} did not happen in {timeout} s"
        time.sleep(0.02)


@contextmanager
def meanwhile(function: Callable[..., object], *arguments: object) -> Iterator[None]:
    """Call a function in a thread during the block, and wait for its return at the end of the block."""
    thread = threading.Thread(target=function, args=arguments, daemon=True)
    thread.start()
    yield
    thread.join(THREAD_TIMEOUT_S)
    assert not thread.is_alive(), f"{function} did not return in {THREAD_TIMEOUT_S} s"
