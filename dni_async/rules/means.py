"""Means of losses and scores over batches."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from dni_async.errors import UserError
from dni_async.state.state_dict import State
from dni_async.trees import describe_tree, first_tensor

_MOST_UNREAD = 256
"""Losses, or scores, of batches that wait to be read."""


class BatchMeans:
    """Mean loss and mean score over batches, each weighted by what it is itself the mean of.

        batch    y                   samples    labels (with `valid`)    scores
        7        [2, 0, 1, 1]        4          4                        4
        8        [2, ignored]        2          1                        1

    valid: y (B, ...) -> which labels count in the loss, in the shape of y. None: all do, and a loss is
        weighted by the samples of its batch.
    """

    def __init__(self, valid: Callable[[Any], Tensor] | None = None) -> None:
        self.valid = valid
        self.clear()

    def clear(self) -> None:
        """Set all sums to zero."""
        self.samples = self.labels = self.scores = 0
        self._loss_sum = self._score_sum = 0.0
        self._losses: list[tuple[Tensor, int]] = []
        """On a device that works in its own time: mean losses that are not added yet, and their labels."""
        self._scores: list[Tensor] = []

    @property
    def loss(self) -> float | None:
        """Mean loss; None without any label."""
        return self._add_all()[0] / self.labels if self.labels else None

    @property
    def score(self) -> float | None:
        """Mean score; None without any."""
        return self._add_all()[1] / self.scores if self.scores else None

    def add_loss(self, loss: float | Tensor, y: Any) -> None:
        """Count a batch with labels y, (B, ...) or a tree, and this mean loss; a tensor is read later."""
        labels = self.labels_in(y)
        if not labels:
            pass  # the mean over no label is NaN, as of torch's losses
        elif isinstance(loss, Tensor):
            self._losses.append((loss, labels))
        else:
            self._loss_sum += loss * labels
        if len(self._losses) >= _MOST_UNREAD:
            self._add_all()
        self.labels += labels
        self.samples += len(first_tensor(y))

    def labels_in(self, y: Any) -> int:
        """Return how many labels the mean loss of a batch with labels y is over."""
        return len(first_tensor(y)) if self.valid is None else int(self.valid(y).sum())

    def add_scores(self, scores: Tensor, later: bool = False) -> None:
        """Count scores (N,).

        later: whether their sum is read when somebody asks for the mean.
        """
        if later:
            self._scores.append(scores.sum())
        else:
            self._score_sum += float(scores.sum())
        self.scores += len(scores)
        if len(self._scores) >= _MOST_UNREAD:
            self._add_all()

    def _add_all(self) -> tuple[float, float]:
        """Return the sums of losses and scores, with those that were to be read later."""
        if self._losses:
            values = torch.stack([loss.double() for loss, _ in self._losses]).tolist()
            for value, (_, labels) in zip(values, self._losses, strict=True):
                self._loss_sum += value * labels
            self._losses = []
        if self._scores:
            self._score_sum += sum(torch.stack(self._scores).double().tolist())
            self._scores = []
        return self._loss_sum, self._score_sum

    def state_dict(self) -> State:
        """Return all sums, JSON-able."""
        counts = {"samples": self.samples, "labels": self.labels, "scores": self.scores}
        loss, score = self._add_all()
        return {"loss": loss, "score": score} | counts

    def load_state_dict(self, state: State) -> None:
        """Take up these sums; those that an older version did not save are by samples."""
        self.clear()
        self._loss_sum, self._score_sum = state["loss"], state.get("score", 0.0)
        self.samples = state["samples"]
        self.labels, self.scores = (state.get(name, self.samples) for name in ("labels", "scores"))


def metric_scores(name: str, result: Any, y: Any, labels: int) -> Tensor:
    """Return the scores (N,) that a metric has returned for a batch with labels y, (B, ...) or a tree.

    Args:
        result: (B,) scores; or one for each label; or a number, also as a scalar tensor, which is the mean of
            the batch.
        labels: how many labels of the batch count in its loss.

    Raises:
        UserError: the result is something else.
    """
    targets = first_tensor(y)
    if isinstance(result, Real):
        result = torch.tensor(float(result), dtype=torch.float64)
    if isinstance(result, Tensor) and not result.ndim:
        return result.expand(len(targets))
    if (
        isinstance(result, Tensor)
        and result.ndim == 1
        and len(result)
        in (
            len(targets),
            targets.numel(),
            labels,
        )
    ):
        return result
    given = f"shape {tuple(result.shape)}" if isinstance(result, Tensor) else describe_tree(result)
    raise UserError(
        f"metric {name} returns {given} for a batch of {len(targets)} samples; return a score for each "
        f"sample, ({len(targets)},), or a number, which is the mean of the batch"
    )
