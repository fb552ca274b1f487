"""A logger in a thread of its own, so that one that blocks does not block training.

rank 0:  log(step, scalars) ──► queue of at most 1,000 records ──► thread:  logger.log(...), logger.close()
"""

from __future__ import annotations

import contextlib
import queue
import sys
import threading
import time
from collections.abc import Callable, Mapping

from dni_async.plugins import describe
from launch.loggers.base import LoggedRun, Logger

START_TIMEOUT_S = 120.0
"""Seconds that a logger may take to start."""
CLOSE_TIMEOUT_S = 20.0
"""Seconds that loggers may take, at the end of a run, for what they have not written yet."""
_MOST = 1_000
"""Records that may wait for a logger."""


class LoggerThread:
    """Makes a logger in a new thread, and makes all its calls there.

    Raises:
        Exception: what the logger raised when it started; TimeoutError if that took too long.
    """

    def __init__(self, name: str, make: Callable[[LoggedRun], Logger], run: LoggedRun) -> None:
        self.name = name
        self._records: queue.Queue[tuple[int, Mapping[str, float]] | None] = queue.Queue(_MOST)
        self._started = threading.Event()
        self._closing = threading.Event()
        self._error: Exception | None = None
        self._behind = False
        self._thread = threading.Thread(target=self._work, args=(make, run), name=f"log {name}", daemon=True)
        self._thread.start()
        if not self._started.wait(START_TIMEOUT_S):
            raise TimeoutError(f"it had not started after {START_TIMEOUT_S:g} s")
        if self._error is not None:
            raise self._error

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        """Hand a record to the thread. It is dropped if too many wait, and the first time a line says so."""
        if not self._thread.is_alive():
            return
        try:
            self._records.put_nowait((step, scalars))
        except queue.Full:
            if not self._behind:
                self._behind = True
                self._warn(f"is {_MOST:,} records behind; until it is faster it does not get all of them")

    def close(self) -> None:
        """Let the thread close the logger after the records that wait; `join` waits for it."""
        self._closing.set()
        with contextlib.suppress(queue.Full):  # the thread looks at `_closing` once the queue is empty
            self._records.put_nowait(None)

    def join(self, end: float) -> None:
        """Wait for the end of the thread until this time on the clock `time.monotonic`."""
        self._thread.join(max(0.0, end - time.monotonic()))
        if self._thread.is_alive():
            self._warn("did not finish in time; it may lack the last numbers")

    def _work(self, make: Callable[[LoggedRun], Logger], run: LoggedRun) -> None:
        try:
            logger = make(run)
        except Exception as error:
            self._error = error
            return
        finally:
            self._started.set()
        try:
            while (record := self._next()) is not None:
                logger.log(*record)
            logger.close()
        except Exception as error:
            self._warn(f"failed and is left out from now on ({describe(error)[:200]})")

    def _next(self) -> tuple[int, Mapping[str, float]] | None:
        if self._closing.is_set() and self._records.empty():
            return None
        return self._records.get()

    def _warn(self, line: str) -> None:
        print(f"dni-async: log {self.name} {line}", file=sys.stderr, flush=True)
