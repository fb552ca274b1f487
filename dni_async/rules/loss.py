"""The last stage: it has the loss, so its gradient is exact."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from dni_async.nonfinite import check_finite, check_loss
from dni_async.rules.base import Rule
from dni_async.rules.capabilities import RuleCapabilities
from dni_async.state.state_dict import State


class LossRule(Rule):
    """The gradient of the task's loss, and the means of loss and metric.

    Args:
        loss: (output (B, ...), y) -> scalar, the mean over the batch.
        metric: (output (B, ...), y) -> (B,) scores, whose mean is taken in evaluation.
    """

    capabilities = RuleCapabilities(needs_targets=False, resumable=True)
    computes_loss = True
    phase = "backward"

    def __init__(
        self, loss: Callable[[Tensor, Tensor], Tensor], metric: Callable[[Tensor, Tensor], Tensor]
    ) -> None:
        self.loss = loss
        self.metric = metric
        self.new_epoch()

    @override
    def new_epoch(self) -> None:
        self._loss, self._samples = 0.0, 0
        self.reset_evaluation()

    @override
    def reset_evaluation(self) -> None:
        self._test_loss = self._test_score = 0.0
        self._test_samples = 0

    @override
    def gradient(self, step: int, version: int, h: Tensor, y: Tensor) -> Tensor:
        leaf = h.detach().requires_grad_()
        loss = self.loss(leaf, y)
        mean, (gradient,) = check_loss(loss.item()), torch.autograd.grad(loss, leaf)
        check_finite("gradient", [gradient])
        self._count(mean, len(y))
        return gradient

    def count(self, loss: float, samples: int) -> None:
        """Count the mean loss of one training batch. Raises NonFinite if it is NaN or infinite."""
        self._count(check_loss(loss), samples)

    def _count(self, loss: float, samples: int) -> None:
        self._loss += loss * samples
        self._samples += samples

    @override
    def evaluate(self, output: Tensor, y: Tensor) -> None:
        self._test_loss += float(self.loss(output, y)) * len(y)
        self._test_score += float(self.metric(output, y).sum())
        self._test_samples += len(y)

    @override
    def result(self) -> dict[str, Any]:
        trained, tested = self._samples, self._test_samples
        return {
            "loss": self._loss / trained if trained else None,
            "test_loss": self._test_loss / tested if tested else None,
            "test_accuracy": self._test_score / tested if tested else None,
            "trained": trained,
            "tested": tested,
        }

    @override
    def counters(self) -> State:
        # unlike at a checkpoint, an evaluation may be under way
        tested = {"loss": self._test_loss, "score": self._test_score, "samples": self._test_samples}
        return self.state_dict() | {"test": tested}

    @override
    def restore_counters(self, counters: State) -> None:
        self.load_state_dict(counters)
        tested = counters["test"]
        self._test_loss, self._test_score = tested["loss"], tested["score"]
        self._test_samples = tested["samples"]

    @override
    def state_dict(self) -> State:
        return {"loss": self._loss, "samples": self._samples}

    @override
    def load_state_dict(self, state: State) -> None:
        self._loss, self._samples = state["loss"], state["samples"]
