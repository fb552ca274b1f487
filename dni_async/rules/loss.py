"""The last stage: it has the loss, so its gradient is exact."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dni_async.nonfinite import check_finite, check_loss
from dni_async.rules.base import Rule
from dni_async.rules.capabilities import RuleCapabilities
from dni_async.state.state_dict import State


class LossRule(Rule):
    """dL/dh of the task's loss, and the running means of loss and metric.

    loss: (output, y) -> scalar mean loss. metric: (output, y) -> (B,) scores, mean taken in evaluation.
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

    def new_epoch(self) -> None:
        """Start all means over."""
        self._loss, self._samples = 0.0, 0
        self.reset_evaluation()

    def reset_evaluation(self) -> None:
        """Start the means over the test set over; the training loss goes on."""
        self._test_loss = self._test_score = 0.0
        self._test_samples = 0

    def gradient(self, step: int, version: int, h: Tensor, y: Tensor) -> Tensor:
        """The exact gradient of the mean loss."""
        leaf = h.detach().requires_grad_()
        loss = self.loss(leaf, y)
        mean, (gradient,) = check_loss(loss.item()), torch.autograd.grad(loss, leaf)
        check_finite("gradient", [gradient])
        self.count(mean, len(y))
        return gradient

    def count(self, loss: float, samples: int) -> None:
        """Count one training batch. Raises NonFinite when its mean loss is NaN or infinite."""
        self._loss += check_loss(loss) * samples
        self._samples += samples

    def evaluate(self, h: Tensor, y: Tensor) -> None:
        """Count one evaluation batch. Expects to run without autograd."""
        self._test_loss += float(self.loss(h, y)) * len(y)
        self._test_score += float(self.metric(h, y).sum())
        self._test_samples += len(y)

    def result(self) -> dict[str, Any]:
        """Mean training loss since the epoch began, test means since the last evaluation; None where
        nothing was counted."""
        trained, tested = self._samples, self._test_samples
        return {
            "loss": self._loss / trained if trained else None,
            "test_loss": self._test_loss / tested if tested else None,
            "test_accuracy": self._test_score / tested if tested else None,
            "trained": trained,
            "tested": tested,
        }

    def counters(self) -> State:
        """The sums of the epoch and, unlike in a checkpoint, of an evaluation that is under way."""
        tested = {"loss": self._test_loss, "score": self._test_score, "samples": self._test_samples}
        return self.state_dict() | {"test": tested}

    def restore_counters(self, counters: State) -> None:
        """Count on from there."""
        self.load_state_dict(counters)
        tested = counters["test"]
        self._test_loss, self._test_score = tested["loss"], tested["score"]
        self._test_samples = tested["samples"]

    def state_dict(self) -> State:
        """The training loss of the epoch so far; a marker never finds the test set half evaluated."""
        return {"loss": self._loss, "samples": self._samples}

    def load_state_dict(self, state: State) -> None:
        """Count on from there."""
        self._loss, self._samples = state["loss"], state["samples"]
