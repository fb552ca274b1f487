"""What rule delayed does against the delay of its gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from dni_async.errors import UserError
from launch.config.checks import one_of
from launch.config.flat import Group

Correction = Literal["none", "error-feedback", "nesterov", "weight-prediction"]


@dataclass(kw_only=True, slots=True)
class DelayConfig(Group):
    """What rule delayed does against the delay of its gradients."""

    delay_rate: float = 0.75
    """Under rule delayed, divide a stage's learning rate by d to this power, d being the updates by which its
    gradients may come late; 0 leaves the rate."""
    delay_beta1: float | None = None
    """Under rule delayed, the first of the betas of a stage whose gradients come late; by default 0.5 for
    adam and adamw where --optimizer-args has no betas, else that of the optimizer."""
    delay_correction: Correction = "none"
    """Under rule delayed: none, error-feedback (add what the update of d updates ago lacked), nesterov
    (momentum of 0.9 on the updates, with look-ahead), or weight-prediction (forward with the last update
    extrapolated over d)."""

    def __post_init__(self) -> None:
        one_of("delay-correction", self.delay_correction, get_args(Correction))
        if not 0 <= self.delay_rate <= 2:
            raise UserError(f"delay-rate is {self.delay_rate:g}; it must be from 0 (no change) to 2")
        if self.delay_beta1 is not None and not 0 <= self.delay_beta1 < 1:
            raise UserError(f"delay-beta1 is {self.delay_beta1:g}; it must be from 0 to below 1")
