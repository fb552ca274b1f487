"""Checks for NaN and infinite values on a GPU, whose results the host reads when they are there.

message       A7            A8            T5            A9
host          begin(A7)     begin(A8)     look: A7 ok   look: A8 not finite -> the run ends
stream "out"  ── A7 ─────────── A8 ──────────── T5 ── ...       one small copy for each message
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import torch
from torch import Tensor

from dni_async.nonfinite import NonFinite
from dni_async.stage.stage import Stage
from workers.runtime.accelerator import Accelerator, Event, wait_for
from workers.transport.cuda_copies import copy_out

_MOST = 64
"""Messages whose results may be on their way."""


@dataclass(slots=True)
class _Found:
    """The results of one message."""

    step: int
    errors: list[NonFinite]
    values: Tensor
    """(errors,), on the host; the error of each that is not finite is raised."""
    copied: Event


class DeferredChecks:
    """The deferred checks of one stage.

    Args:
        timeout: seconds that the GPU may take for any of them.
    """

    def __init__(self, stage: Stage, accelerator: Accelerator, timeout: float) -> None:
        self._stage, self._accelerator, self._timeout = stage, accelerator, timeout
        self._waiting: deque[_Found] = deque()

    def begin(self, step: int) -> None:
        """Begin to copy the results of a message, and look at those that are there.

        Raises:
            UserError: a value of an earlier message was NaN or infinite.
        """
        if taken := self._stage.checks.take():
            results = torch.stack([value for _, value in taken])
            values = self._accelerator.host_buffer(len(taken))
            copied = copy_out([values], [results], self._accelerator)
            self._waiting.append(_Found(step, [error for error, _ in taken], values, copied))
        while self._waiting and (len(self._waiting) > _MOST or self._waiting[0].copied.query()):
            self._look()

    def wait(self) -> None:
        """Look at all results. Raises UserError, or TransportTimeout."""
        while self._waiting:
            self._look()

    def _look(self) -> None:
        found = self._waiting.popleft()
        wait_for(found.copied, self._timeout)
        for error, is_finite in zip(found.errors, torch.isfinite(found.values).tolist(), strict=True):
            if not is_finite:
                error.args = (f"in step {found.step}, {error}",)
                self._stage.without(error)
