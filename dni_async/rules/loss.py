"""The last stage: it has the loss, so its gradient is exact."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from dni_async.boundary import TENSOR, Boundary, Extras
from dni_async.rules.base import Rule
from dni_async.rules.capabilities import RuleCapabilities
from dni_async.rules.means import BatchMeans, metric_scores
from dni_async.state.state_dict import State

EXTRA = "extra_metrics"
"""Key of the sums of further metrics in the result of an evaluation."""


class LossRule(Rule):
    """The gradient of the task's loss, and the means of loss and metric.

    Args:
        loss: (output (B, ...), y) -> scalar, the mean over the batch.
        metric: (output (B, ...), y) -> (N,) scores, whose mean is taken in evaluation.
        valid: y -> which labels count in the loss, in the shape of y; None where all of them do.
        boundary: how the output is packed; loss and metric take it unpacked.
        metrics: more metrics of evaluations by name, as `metric`; a number is the mean of a batch.

    The mean loss of several batches is over the labels that count; without `valid`, over samples.
    """

    capabilities = RuleCapabilities(needs_targets=False, resumable=True)
    computes_loss = True
    phase = "backward"

    def __init__(
        self,
        loss: Callable[[Any, Any], Tensor],
        metric: Callable[[Any, Any], Tensor],
        valid: Callable[[Any], Tensor] | None = None,
        boundary: Boundary = TENSOR,
        metrics: Mapping[str, Callable[[Any, Any], Tensor | float]] = MappingProxyType({}),
    ) -> None:
        self.loss = loss
        self.metric = metric
        self.boundary = boundary
        self._extras: Extras = ()
        self._trained, self._tested = BatchMeans(valid), BatchMeans(valid)
        self._metrics = metrics
        self._extra = {name: BatchMeans() for name in metrics}

    @property
    def valid(self) -> Callable[[Any], Tensor] | None:
        """Which labels count; None where all of them do."""
        return self._trained.valid

    @override
    def new_epoch(self) -> None:
        self._trained.clear()
        self.reset_evaluation()

    @override
    def reset_evaluation(self) -> None:
        for means in (self._tested, *self._extra.values()):
            means.clear()

    @override
    def take_extras(self, extras: Extras) -> None:
        self._extras = extras

    @override
    def gradient(self, step: int, version: int, h: Tensor, y: Any) -> Tensor:
        leaf = h.detach().requires_grad_()
        loss = self.loss(self.boundary.unpack(leaf, self._extras), y)
        mean, (gradient,) = self.checks.loss(loss), torch.autograd.grad(loss, leaf)
        self.checks.check("gradient", [gradient])
        self._trained.add_loss(mean, y)
        return gradient

    def count(self, loss: Tensor, y: Any) -> None:
        """Count the mean loss, a scalar, of one training batch with labels y.

        Raises NonFinite if it is NaN or infinite.
        """
        self._trained.add_loss(self.checks.loss(loss), y)

    def labels_in(self, y: Any) -> int:
        """Return how many labels the mean loss of a batch with labels y is over."""
        return self._trained.labels_in(y)

    @override
    def evaluate(self, output: Any, y: Any) -> None:
        self._tested.add_loss(float(self.loss(output, y)), y)
        self._tested.add_scores(self.metric(output, y))
        for name, metric in self._metrics.items():
            scores = metric_scores(name, metric(output, y), y, self.labels_in(y))
            self._extra[name].add_scores(scores)

    @override
    def result(self) -> dict[str, Any]:
        """Return the means, and the numbers of samples; what the means are over only where that differs."""
        trained, tested = self._trained, self._tested
        weights = {
            "trained_labels": (trained.labels, trained.samples),
            "tested_labels": (tested.labels, tested.samples),
            "scores": (tested.scores, tested.samples),
        }
        return {
            "loss": trained.loss,
            "test_loss": tested.loss,
            "test_accuracy": tested.score,
            "trained": trained.samples,
            "tested": tested.samples,
            **({EXTRA: self._extra_sums()} if self._extra else {}),
        } | {name: count for name, (count, samples) in weights.items() if count != samples}

    def _extra_sums(self) -> dict[str, list[float]]:
        """Return the sum and the number of the scores of each further metric."""
        return {
            name: [means.score * means.scores if means.score is not None else 0.0, means.scores]
            for name, means in self._extra.items()
        }

    @override
    def counters(self) -> State:
        # unlike at a checkpoint, an evaluation may be under way
        extra = {name: means.state_dict() for name, means in self._extra.items()}
        return self.state_dict() | {"test": self._tested.state_dict(), EXTRA: extra}

    @override
    def restore_counters(self, counters: State) -> None:
        self.load_state_dict(counters)
        self._tested.load_state_dict(counters["test"])
        for name, state in counters.get(EXTRA, {}).items():
            self._extra[name].load_state_dict(state)

    @override
    def state_dict(self) -> State:
        return self._trained.state_dict()

    @override
    def load_state_dict(self, state: State) -> None:
        self._trained.load_state_dict(state)
