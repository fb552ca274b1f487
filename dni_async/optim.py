"""Optimizer, learning-rate schedule, accumulation, clipping, averaging and loss scaling in one step."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from dni_async.delay_correction import DelayCorrection
from dni_async.errors import UserError
from dni_async.learning_rates import LearningRates
from dni_async.loss_scaling import LossScaler
from dni_async.muon import MuonWithAdamW
from dni_async.state.state_dict import State, load_optimizer_state, optimizer_state
from dni_async.weight_average import WeightAverage

AVERAGE = "average"
"""Entry of a parameter's saved state with its average."""

OptimizerFactory = Callable[[ParamsT], Optimizer]


def optimizer_factory(name: str, lr: float, **settings: Any) -> OptimizerFactory:
    """Return a function that makes the torch optimizer `name` (any case) for parameters or groups of them.

    The fused implementation is used where torch has one: on CPU it is 4 to 8 times faster. "muon" is
    `MuonWithAdamW`.

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
    if "muon" in classes:  # since torch 2.9
        classes["muon"] = MuonWithAdamW
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


class Updater:
    """Steps the weights of one stage and counts the steps: the version of the weights.

    Args:
        optimizer: None for layers without parameters, whose version counts too.
        factor: of the learning rate, by version.
        clip_norm: maximal norm of the gradient of all these parameters together; None for no clipping.
        accumulate: batches whose mean gradient makes one step; version counts the steps.
        parameters: those of the optimizer, in the order in which their state is saved; None: that of its
            groups.
        ema: decay of the average of the weights that `averaged` uses; None for no average.
        scaler: of gradients in fp16. An update by infinite ones is left out, and does not count.
        correction: of the optimizer's updates, whose gradients come late; None for none.
    """

    def __init__(
        self,
        optimizer: Optimizer | None,
        factor: Callable[[int], float] | None = None,
        clip_norm: float | None = None,
        accumulate: int = 1,
        parameters: Sequence[nn.Parameter] | None = None,
        ema: float | None = None,
        scaler: LossScaler | None = None,
        correction: DelayCorrection | None = None,
    ) -> None:
        self.optimizer = optimizer
        self.correction = correction
        self.clip_norm = clip_norm
        self.scaler = scaler
        self.whole_norm: Callable[[Tensor], Tensor] | None = None
        """From the norm of this gradient to that of the whole network's, to clip by that."""
        self.accumulate = accumulate
        self._accumulated = 0
        """Batches whose gradient is in the parameters' and waits for a step."""
        self.version = 0
        groups = optimizer.param_groups if optimizer else []
        self._parameters = list(parameters or (p for group in groups for p in group["params"]))
        self.average = None if ema is None else WeightAverage(self._parameters, ema)
        self._rates = LearningRates(optimizer, factor) if optimizer else None
        self._set_rates()

    def step(self, rate: float = 1.0) -> None:
        """Take the gradients of one more batch; with the last of `accumulate`, clip, step with the scheduled
        learning rate times `rate`, schedule, and clear the gradients."""
        self._accumulated += 1
        if self._accumulated < self.accumulate:
            return
        self._accumulated = 0
        if self.scaler and not self.scaler.unscale(self.gradients()):
            self.drop()
            return
        self.version += 1
        if self.accumulate > 1 and (sums := self.gradients()):
            torch._foreach_div_(sums, self.accumulate)
        if self.clip_norm is not None:
            self._clip(self.clip_norm)
        if self.optimizer is None:
            return
        with self._rates.scaled(rate) if self._rates and rate != 1 else nullcontext():
            if self.correction:
                self.correction.step(self.optimizer, self.version - 1)
            else:
                self.optimizer.step()
        if self.average:
            self.average.update(self.version)
        self._set_rates()
        self.optimizer.zero_grad()

    def averaged(self) -> AbstractContextManager[None]:
        """Have the weights be their averages inside a block, if there are any."""
        return self.average.applied() if self.average else nullcontext()

    def scaled(self, tensor: Tensor) -> Tensor:
        """Return a loss, or the gradient (B, ...) at an output, scaled if those of the weights are to be."""
        return self.scaler.scaled(tensor) if self.scaler else tensor

    def unscaled(self, gradient: Tensor) -> Tensor | None:
        """Return the gradient (B, ...) at an input as it would be unscaled; None if it has overflowed."""
        return self.scaler.unscaled(gradient) if self.scaler else gradient

    def take_average(self) -> None:
        """Have the weights be their averages, if there are any, from now on."""
        if self.average:
            self.average.swap()
            self.average.restart()

    def restart_average(self) -> None:
        """Begin the average, if there is one, again with the weights as they are."""
        if self.average:
            self.average.restart()

    def _clip(self, clip_norm: float) -> None:
        """Clip as torch does, by the norm of the whole network's gradient where there is `whole_norm`."""
        if self.whole_norm is None:
            nn.utils.clip_grad_norm_(self._parameters, clip_norm)
            return
        parts = self.gradients()
        norms = [gradient.norm() for gradient in parts]
        norm = self.whole_norm(torch.stack(norms).norm() if norms else torch.zeros(()))
        factor = (clip_norm / (norm + 1e-6)).clamp(max=1.0)
        for gradient in parts:
            gradient.mul_(factor)

    def gradients(self) -> list[Tensor]:
        """Return the gradients that the next step will use."""
        return gradients(self.optimizer) if self.optimizer else []

    def drop(self) -> None:
        """Clear the gradients without a step."""
        self._accumulated = 0
        if self.optimizer is not None:
            self.optimizer.zero_grad()

    def state_dict(self) -> State:
        """Return the version, the optimizer's state, and what is accumulated; learning rates follow from the
        version."""
        parameters = optimizer_state(self.optimizer, self._parameters) if self.optimizer else []
        if self.average:
            pairs = zip(parameters, self.average.averages, strict=True)
            parameters = [mine | {AVERAGE: average} for mine, average in pairs]
        state: State = {"version": self.version, "parameters": parameters}
        if self.scaler:
            state["scaler"] = self.scaler.state_dict()
        if self._accumulated:
            state |= {"accumulated": self._accumulated, "gradients": [p.grad for p in self._parameters]}
        return state

    def load_state_dict(self, state: State) -> None:
        """Take up what `state_dict` returned, with the settings of this updater."""
        self.version = state["version"]
        if self.optimizer is not None:
            averages = [saved.get(AVERAGE) for saved in state["parameters"]]
            own = [{k: v for k, v in saved.items() if k != AVERAGE} for saved in state["parameters"]]
            load_optimizer_state(self.optimizer, own, self._parameters)
            if self.average:
                self.average.load(averages)
        if self.scaler and state.get("scaler"):
            self.scaler.load_state_dict(state["scaler"])
        self._accumulated = state.get("accumulated", 0)
        for parameter, gradient in zip(self._parameters, state.get("gradients", ()), strict=False):
            parameter.grad = None if gradient is None else gradient.to(parameter, copy=True)
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
