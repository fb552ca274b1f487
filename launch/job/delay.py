"""How late a stage's gradients come under a rule that keeps graphs, and what its updater does about it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch.optim import Optimizer

from dni_async.delay_correction import DelayCorrection, ErrorFeedback, Nesterov
from launch.config.train import TrainConfig
from tasks.base import Task

BETA1 = 0.5
"""Of adam and adamw where gradients come late."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delay:
    """The delay of one stage's gradients."""

    updates: int
    """Most updates that the stage takes between a batch's forward and the update by its gradient."""
    power: float
    """The learning rate is divided by `updates` to this power."""
    beta1: float | None
    """First of the optimizer's betas; None leaves it."""
    correction: str

    @classmethod
    def of(cls, config: TrainConfig, task: Task, index: int, stages: int) -> Delay | None:
        """Return the delay of stage `index` of so many; None where gradients come before the next update."""
        waiting = config.partition.stash_of(index, stages) - 1
        updates = math.ceil(waiting / config.optimizer.accumulate)
        if not (config.capabilities.keeps_graphs and index < stages - 1 and updates):
            return None
        beta1 = config.delay.delay_beta1
        if beta1 is None and config.optimizer.name.lower() in ("adam", "adamw"):
            given = config.optimizer.optimizer_args
            own = "betas" in config.optimizer.settings() and given != task.defaults.get("optimizer_args")
            beta1 = None if own else BETA1
        power, correction = config.delay.delay_rate, config.delay.delay_correction
        return cls(updates=updates, power=power, beta1=beta1, correction=correction)

    def scheduled(self, factor: Callable[[int], float] | None) -> Callable[[int], float]:
        """Return the factor of the learning rate by version, given that without a delay."""
        share = self.updates**-self.power
        return lambda version: share * (factor(version) if factor else 1.0)

    def set_beta1(self, optimizer: Optimizer) -> None:
        """Set the first of the optimizer's betas where it has some."""
        for group in optimizer.param_groups if self.beta1 is not None else ():
            if "betas" in group:
                group["betas"] = (self.beta1, *group["betas"][1:])

    def make_correction(self) -> DelayCorrection | None:
        """Return the correction of the optimizer's updates, if there is one."""
        if self.correction == "error-feedback":
            return ErrorFeedback(self.updates)
        return Nesterov() if self.correction == "nesterov" else None

    @property
    def predicted_updates(self) -> int:
        """Updates by which weights are extrapolated for a forward."""
        return self.updates if self.correction == "weight-prediction" else 0
