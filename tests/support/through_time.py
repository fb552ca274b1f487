"""Predictors at the ends of windows, and the gradients of full BPTT to compare with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from dni_async.messages import TargetGradient
from dni_async.recurrent.core import RecurrentCore
from tests.support.recurrent_cores import CORES, INPUTS

ROWS = 4


class RecordingPredictor:
    """Predicts a constant and records every call."""

    def __init__(self, value: float) -> None:
        self.value = value
        self.seen: list[str] = []
        self.targets: list[Tensor] = []

    def predict(self, step: int, version: int, h: Tensor, y: Tensor) -> Tensor:
        self.seen.append(f"predict {step} for {len(h)}")
        return torch.full_like(h, self.value)

    def take(self, target: TargetGradient) -> None:
        self.seen.append(f"take {target.step} of {len(target.grad)}")
        self.targets.append(target.grad)

    def stats(self) -> dict[str, Any]:
        return {}

    def new_epoch(self) -> None: ...


def square(out: Tensor) -> Tensor:
    """A loss that is a mean over rows and a sum over time."""
    return (out - 0.3).square().sum((1, 2)).mean()


class ExactPredictor:
    """Predicts the gradient of all later steps by running the rest of the sequences to their ends."""

    def __init__(self, core: RecurrentCore, x: Tensor, T: int, lengths: Tensor | None = None) -> None:
        self.core, self.x, self.T = core, x, T
        self.lengths = lengths if lengths is not None else torch.full((len(x),), x.shape[1])
        self.predicted: dict[int, Tensor] = {}
        self.targets: dict[int, Tensor] = {}

    def predict(self, step: int, version: int, h: Tensor, y: Tensor) -> Tensor:
        state = h.clone().requires_grad_()
        passed = step * self.T
        rows = self.lengths > passed
        out, _ = self.core(self.x[rows, passed:], state)
        alive = torch.arange(passed, self.x.shape[1]) < self.lengths[rows].unsqueeze(1)
        loss = ((out - 0.3).square().sum(2) * alive).sum(1).mean()
        self.predicted[step] = torch.autograd.grad(loss, state)[0]
        return self.predicted[step]

    def take(self, target: TargetGradient) -> None:
        self.targets[target.step] = target.grad

    def stats(self) -> dict[str, Any]:
        return {}

    def new_epoch(self) -> None: ...


def gradients(core: nn.Module) -> list[Tensor]:
    found = []
    for parameter in core.parameters():
        assert parameter.grad is not None
        found.append(parameter.grad.clone())
        parameter.grad = None
    return found


def of_whole_sequence(core: RecurrentCore, x: Tensor) -> list[Tensor]:
    square(core(x)[0]).backward()
    return gradients(core)


def equal_to_full_bptt(
    name: str, T: int, train: Callable[[RecurrentCore, ExactPredictor, Tensor], None]
) -> ExactPredictor:
    """Check that `train` leaves the gradients of full BPTT with an exact predictor at the ends of windows.

    Args:
        name: of the core, in CORES.
        T: steps of a window.
        train: called with the core, its exact predictor and the inputs (ROWS, 11, INPUTS).
    """
    torch.set_default_dtype(torch.float64)
    try:
        torch.manual_seed(0)
        core = RecurrentCore(CORES[name][0]())
        x = torch.randn(ROWS, 11, INPUTS)
        expected = of_whole_sequence(core, x)
        oracle = ExactPredictor(core, x, T)
        train(core, oracle, x)
    finally:
        torch.set_default_dtype(torch.float32)
    for mine, theirs in zip(gradients(core), expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-6)
    assert sorted(oracle.targets) == list(range(1, -(-11 // T)))
    return oracle
