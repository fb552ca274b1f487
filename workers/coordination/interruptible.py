"""Calls that wait in C++, where Python handles no signal and some waits have no deadline."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from dni_async.errors import Late

T = TypeVar("T")

OVERTIME_S = 5.0
"""How much longer than its own deadline a call of torch may take."""

_INTERVAL_S = 0.1
"""A signal that comes right before a wait does not interrupt it."""


def interruptible(call: Callable[[], T], timeout: float, failed: str) -> T:
    """Return what `call` returns, or raise what it raises, and handle signals meanwhile.

    The call runs in a thread of its own. It is abandoned there when a signal handler raises, as when the
    process is to stop, and at the deadline.

    Args:
        timeout: seconds for the call; where it has a deadline of its own, `OVERTIME_S` more.
        failed: what the user is told at the deadline, such as "rank 1 could not meet the others".

    Raises:
        Late: the call has not returned in `timeout` seconds.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    thread = threading.Thread(target=run, name="interruptible call", daemon=True)
    thread.start()
    end = time.monotonic() + timeout
    while thread.is_alive():
        thread.join(_INTERVAL_S)
        if time.monotonic() > end and thread.is_alive():
            raise Late(f"{failed} in {timeout:g} s (no answer)")
    return future.result()
