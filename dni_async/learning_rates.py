"""Schedules of learning rates."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch.optim import Optimizer

SCHEDULES = ("constant", "linear", "cosine", "step")


def schedule_factor(
    schedule: str,
    total_steps: int,
    milestones: tuple[float, ...] = (0.6, 0.8),
    gamma: float = 0.1,
    warmup_steps: int = 0,
) -> Callable[[int], float]:
    """Return the factor of the learning rate by step; without warm-up it starts at 1.

    "linear" and "cosine" reach 0 after `total_steps`; "step" multiplies by `gamma` at each milestone, a share
    of the run (the paper divides by 10 at 300k and 400k of 500k steps: 0.6 and 0.8). With warm-up the factor
    first rises linearly, 1/n, 2/n ... 1 in the first n = `warmup_steps` steps, and the schedule fills the
    rest of the run.
    """
    assert schedule in SCHEDULES, schedule
    if warmup_steps:
        rest = schedule_factor(schedule, max(1, total_steps - warmup_steps), milestones, gamma)
        return lambda step: (step + 1) / warmup_steps if step < warmup_steps else rest(step - warmup_steps)
    if schedule == "linear":
        return lambda step: max(0.0, 1 - step / total_steps)
    if schedule == "cosine":
        return lambda step: 0.5 * (1 + math.cos(math.pi * min(1.0, step / total_steps)))
    if schedule == "step":
        return lambda step: gamma ** sum(step >= m * total_steps for m in milestones)
    return lambda step: 1.0


class LearningRates:
    """Scheduled learning rates of an optimizer's parameter groups; they follow from the version alone.

    Args:
        optimizer: with the initial rates.
        factor: of the initial rates, by version; None: constant.
    """

    def __init__(self, optimizer: Optimizer, factor: Callable[[int], float] | None) -> None:
        self._optimizer = optimizer
        self._factor = factor
        self._initial = [group["lr"] for group in optimizer.param_groups]

    def set(self, version: int) -> None:
        """Set the rates of weights that were stepped `version` times."""
        if self._factor is None:
            return
        factor = self._factor(version)
        for group, rate in zip(self._optimizer.param_groups, self._initial, strict=True):
            group["lr"] = rate * factor

    @contextmanager
    def scaled(self, share: float) -> Iterator[None]:
        """Have the rates be a share of what they are, inside a block."""
        groups = self._optimizer.param_groups
        rates = [group["lr"] for group in groups]
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate * share
        try:
            yield
        finally:
            for group, rate in zip(groups, rates, strict=True):
                group["lr"] = rate
