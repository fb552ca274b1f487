"""Means of losses and scores over batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from dni_async.state.state_dict import State
from dni_async.trees import first_tensor


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
        self._loss = self._score = 0.0

    @property
    def loss(self) -> float | None:
        """Mean loss; None without any label."""
        return self._loss / self.labels if self.labels else None

    @property
    def score(self) -> float | None:
        """Mean score; None without any."""
        return self._score / self.scores if self.scores else None

    def add_loss(self, loss: float, y: Any) -> None:
        """Count a batch with labels y, (B, ...) or a tree, and this mean loss."""
        labels = self.labels_in(y)
        if labels:  # the mean over no label is NaN, as of torch's losses
            self._loss += loss * labels
        self.labels += labels
        self.samples += len(first_tensor(y))

    def labels_in(self, y: Any) -> int:
        """Return how many labels the mean loss of a batch with labels y is over."""
        return len(first_tensor(y)) if self.valid is None else int(self.valid(y).sum())

    def add_scores(self, scores: Tensor) -> None:
        """Count scores (N,)."""
        self._score += float(scores.sum())
        self.scores += len(scores)

    def state_dict(self) -> State:
        """Return all sums, JSON-able."""
        counts = {"samples": self.samples, "labels": self.labels, "scores": self.scores}
        return {"loss": self._loss, "score": self._score} | counts

    def load_state_dict(self, state: State) -> None:
        """Take up these sums; those that an older version did not save are by samples."""
        self._loss, self._score = state["loss"], state.get("score", 0.0)
        self.samples = state["samples"]
        self.labels, self.scores = (state.get(name, self.samples) for name in ("labels", "scores"))
