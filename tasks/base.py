"""What a task is: layers, loss, data, metric, and what the SG networks are conditioned on."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from dni_async.errors import UserError


class Task(ABC):
    """A network to train and the data to train it on: the base class of a user's own task.

    Only `layers` and `data` must be written; the rest defaults to classification with `classes` classes, or
    to regression where `classes` is None. The constructor's keyword arguments are the task's own settings
    (`--task-args`). Every process builds a `Task`, so its constructor must not read data or build layers.
    """

    classes: int | None = None
    """Number of classes when the labels are class indices; None for real-valued targets."""

    carries_state: bool = False
    """Whether layers carry state from batch to batch (`StatefulRNN`): batches are then never split."""

    metadata: Mapping[str, Any] = MappingProxyType({})
    """What `layers` must know of the data, such as the size of a vocabulary: JSON-able, set by `data`. The
    processes that do not read the data receive it before they build layers."""

    note: str | None = None
    """One line for the user about the data that was really used; set by `data`."""

    @cached_property
    def metric_name(self) -> str:
        """Name of the metric in tables, pictures and the keys of records."""
        if self.classes is not None:
            return "accuracy"
        return "negative squared error" if type(self).metric is Task.metric else "metric"

    @property
    def name(self) -> str:
        """Name of the task in reports."""
        return type(self).__name__

    @abstractmethod
    def layers(self) -> list[nn.Module]:
        """Return the network as consecutive layers, input first. It may be cut between any two of them."""

    @abstractmethod
    def data(self, root: Path | None) -> tuple[Dataset, Dataset]:
        """Return (training set, test set) of (x, y) pairs; a `TensorDataset` is read fastest.

        Args:
            root: the folder given by --data-root or DNI_DATA; None when neither is given.

        Raises:
            dni_async.errors.UserError: a file is missing or damaged.
        """

    def validation(self, root: Path | None) -> Dataset | None:
        """Return the validation set, or None when the task has none; called only with --patience."""
        return None

    def loss(self, output: Tensor, y: Tensor) -> Tensor:
        """Return the mean loss of a batch, a scalar: cross-entropy for classes, else mean squared error."""
        if self.classes is not None:
            return F.cross_entropy(output, y)
        if output.shape != y.shape:
            raise UserError(
                f"outputs {tuple(output.shape)} and targets {tuple(y.shape)} differ; shape them alike"
            )
        return F.mse_loss(output, y)

    def metric(self, output: Tensor, y: Tensor) -> Tensor:
        """Return (B,) the score of each sample, higher is better; reports show its mean over the test set."""
        if self.classes is None:
            return -(output - y).reshape(len(y), -1).square().mean(1)
        return (output.argmax(-1) == y).float()

    def reported(self, mean: float) -> float:
        """Return the number that reports show for the mean of the metric over a set."""
        return mean

    def condition(self, y: Tensor) -> Tensor:
        """Return (B, C), the labels as a conditional SG network sees them: one-hot classes, or y as it is.

        With as many dimensions as the activations, (B, ..., C), each of their positions has its own labels.
        """
        if self.classes is None:
            return y.reshape(len(y), -1).float()
        return F.one_hot(y, self.classes).float()


def seed_everything(seed: int) -> None:
    """Seed the generators of torch, numpy and Python: those of layers, and of data sets that draw."""
    torch.manual_seed(seed)
    numpy.random.seed(seed % 2**32)
    random.seed(seed)
