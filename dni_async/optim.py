"""Optimizer, learning-rate schedule and clipping in one step."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dni_async.errors import UserError
from dni_async.state.state_dict import State, load_optimizer_state, optimizer_state

SCHEDULES = ("constant", "linear", "cosine", "step")

OptimizerFactory = Callable[[list[nn.Parameter]], Optimizer]


def optimizer_factory(name: str, lr: float, **settings: Any) -> OptimizerFactory:
    """Return a function that makes the torch optimizer `name` (any case) for a list of parameters.

    The fused implementation is used where torch has one: on CPU it is 4 to 8 times faster.

    Raises:
        UserError: torch does not know the name or a setting.
    """
    # LBFGS evaluates the loss several times per step; SparseAdam takes sparse gradients only
    no_choice = (Optimizer, torch.optim.LBFGS, torch.optim.SparseAdam)
    classes: dict[str, Any] = {
        key.lower(): value
        for key, value in vars(torch.optim).items()
        if isinstance(value, type) and issubclass(value, Optimizer) and value not in no_choice
    }
    if name.lower() not in classes:
        raise UserError(f"unknown optimizer ({name}); use one of {', '.join(sorted(classes))}")
    cls = classes[name.lower()]
    known = [key for key in inspect.signature(cls).parameters if key not in ("params", "lr")]
    unknown = sorted(set(settings) - set(known))
    if unknown:
        raise UserError(f"optimizer {name} has no setting {unknown[0]}; it has {', '.join(known)}")
    if "fused" in known and "fused" not in settings and not settings.get("foreach"):
        settings["fused"] = True
    return lambda parameters: cls(parameters, lr=lr, **settings)


def schedule_factor(
    schedule: str, total_steps: int, milestones: tuple[float, ...] = (0.6, 0.8), gamma: float = 0.1
) -> Callable[[int], float]:
    """Return the factor of the learning rate by step; it starts at 1.

    "linear" and "cosine" reach 0 after `total_steps`; "step" multiplies by `gamma` at each milestone, a share
    of the run (the paper divides by 10 at 300k and 400k of 500k steps: 0.6 and 0.8).
    """
    assert schedule in SCHEDULES, schedule
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


class Updater:
    """Steps the weights of one stage and counts the steps: the version of the weights.

    Args:
        optimizer: None for layers without parameters, whose version counts too.
        factor: of the learning rate, by version.
        clip_norm: maximal norm of the gradient of this stage's own parameters; None for no clipping.
    """

    def __init__(
        self,
        optimizer: Optimizer | None,
        factor: Callable[[int], float] | None = None,
        clip_norm: float | None = None,
    ) -> None:
        self.optimizer = optimizer
        self.clip_norm = clip_norm
        self.version = 0
        groups = optimizer.param_groups if optimizer else []
        self._parameters = [p for group in groups for p in group["params"]]
        self._rates = LearningRates(optimizer, factor) if optimizer else None
        self._set_rates()

    def step(self) -> None:
        """Clip, step, schedule, and clear the gradients."""
        self.version += 1
        if self.optimizer is None:
            return
        if self.clip_norm is not None:
            nn.utils.clip_grad_norm_(self._parameters, self.clip_norm)
        self.optimizer.step()
        self._set_rates()
        self.optimizer.zero_grad()

    def gradients(self) -> list[Tensor]:
        """Return the gradients that the next step will use."""
        return gradients(self.optimizer) if self.optimizer else []

    def drop(self) -> None:
        """Clear the gradients without a step."""
        if self.optimizer is not None:
            self.optimizer.zero_grad()

    def state_dict(self) -> State:
        """Return the version and the optimizer's state; learning rates follow from the version."""
        return {
            "version": self.version,
            "parameters": optimizer_state(self.optimizer) if self.optimizer else [],
        }

    def load_state_dict(self, state: State) -> None:
        """Take up what `state_dict` returned, with the settings of this updater."""
        self.version = state["version"]
        if self.optimizer is not None:
            load_optimizer_state(self.optimizer, state["parameters"])
        self._set_rates()

    def count_on(self, version: int) -> None:
        """Count, and schedule the learning rate, from `version` on, although the weights are older."""
        self.version = version
        self._set_rates()

    def _set_rates(self) -> None:
        if self._rates:
            self._rates.set(self.version)


def gradients(optimizer: Optimizer) -> list[Tensor]:
    """Return the gradients that an optimizer's parameters have now."""
    groups = optimizer.param_groups
    return [p.grad for group in groups for p in group["params"] if p.grad is not None]
