"""Where the time of a stage on a GPU goes: the host runs ahead, so it is the GPU that is asked.

host    forward sg backward update | forward sg ...           calls that return at once
GPU            wait | forward | sg | backward | update | ...  an event at each mark, read later
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

from typing_extensions import override

from workers.runtime.accelerator import Accelerator, TimedEvent, wait_for
from workers.runtime.probe import Probe


class GpuProbe(Probe):
    """A probe whose marks are events in the stream of this thread.

    Times begin with the host's clock when the first event was reached, and go on with that of the GPU.

    Args:
        timeout: seconds that the GPU may take to reach the last mark, when totals are asked for.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        timeout: float,
        warmup: int = 0,
        limit: int = 20_000,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        accelerator.synchronize(timeout)
        self._reached = accelerator.timer()
        """The last event that was read."""
        super().__init__(warmup, limit, clock)
        self._accelerator, self._timeout = accelerator, timeout
        self._ahead: deque[tuple[TimedEvent, str, bool, int] | None] = deque()
        """Marks that the GPU may not have reached: event, kind, training, step; None: the warm-up ended."""
        wait_for(self._reached, timeout)

    @override
    def mark(self, kind: str) -> None:
        self._ahead.append((self._accelerator.timer(), kind, self.training, self.step))
        self._read()

    @override
    def step_done(self) -> None:
        if self._warmup > 0:
            self._warmup -= 1
            self._ahead.append(None)

    @override
    def stats(self) -> dict[str, Any]:
        self._read_all()
        return super().stats()

    @override
    def timeline(self) -> list[list[Any]]:
        self._read_all()
        return super().timeline()

    def _read_all(self) -> None:
        if last := next((mark for mark in reversed(self._ahead) if mark), None):
            wait_for(last[0], self._timeout, "the work of the GPU")
        self._read()

    def _read(self) -> None:
        """Count the time before every mark that the GPU has reached."""
        while self._ahead:
            mark = self._ahead[0]
            if mark is None:
                self.totals.clear()
            else:
                event, kind, training, step = mark
                if not event.query():
                    return
                end = self._last + self._reached.elapsed_time(event) / 1e3
                self._add(kind, end, training, step)
                self._reached = event
            self._ahead.popleft()
