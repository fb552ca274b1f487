"""Corrections of an optimizer's updates whose gradients come d updates late.

u is what the optimizer subtracts from a weight; a correction subtracts something else in its place:

    error-feedback    u[t] + (u[t] - u[t-d])     what was applied in place of u[t], d updates ago, was u[t-d]
    nesterov          (1 - g) u[t] + g s[t]      s[t] = g s[t-1] + (1 - g) u[t], weights are looked ahead at

They work with any optimizer. What they remember of a weight lies in the optimizer's state of it, which is
saved and restored with it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.optim import Optimizer
from typing_extensions import override


class DelayCorrection(ABC):
    """Steps an optimizer, and changes what it has subtracted from each weight."""

    @torch.no_grad()
    def step(self, optimizer: Optimizer, version: int) -> None:
        """Take step number `version` of an optimizer, counted from 0, and correct it."""
        groups = optimizer.param_groups
        parameters = [p for group in groups for p in group["params"] if p.grad is not None]
        before = [p.detach().clone() for p in parameters]
        optimizer.step()
        if not parameters:
            return
        updates = torch._foreach_sub(before, parameters)
        for parameter, update in zip(parameters, updates, strict=True):
            parameter.sub_(self._difference(optimizer.state[parameter], update, version))

    @abstractmethod
    def _difference(self, state: dict[str, Tensor], update: Tensor, version: int) -> Tensor:
        """Return what to subtract from a weight beside `update`, both in its shape.

        state: the optimizer's state of this weight.
        """


class ErrorFeedback(DelayCorrection):
    """Makes good d updates later what was wrong with an update (one-step delay: x - 2 u[t] + u[t-1]).

    It remembers the last d updates of every weight.
    """

    def __init__(self, delay: int) -> None:
        assert delay > 0, delay
        self.delay = delay

    @override
    def _difference(self, state: dict[str, Tensor], update: Tensor, version: int) -> Tensor:
        recent = state.get("recent_updates")
        if recent is None or len(recent) != self.delay:
            recent = state["recent_updates"] = update.expand(self.delay, *update.shape).clone()
        place = version % self.delay
        difference = update - recent[place]
        recent[place] = update
        return difference


class Nesterov(DelayCorrection):
    """Nesterov's accelerated gradient with a discounted gradient (Ajanthan et al. 2025, arXiv 2505.01099).

    The weights are those at the look-ahead, so nothing but the update changes.
    """

    def __init__(self, momentum: float = 0.9) -> None:
        self.momentum = momentum

    @override
    def _difference(self, state: dict[str, Tensor], update: Tensor, version: int) -> Tensor:
        mean = state.setdefault("mean_update", torch.zeros_like(update))
        mean.lerp_(update, 1 - self.momentum)
        return (mean - update).mul_(self.momentum)
