"""What a task is: layers, loss, data, metric, and what the SG networks condition on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from dni_async.errors import UserError


class Task(ABC):
    """A network to train and the data to train it on. Everything a user's own task has to say.

    Only `layers` and `data` must be written; the rest defaults to classification with `classes`
    classes. The constructor's keyword arguments are the task's own settings (`--task-args`), and one
    `Task` is built in every process: it must not read data or build layers before it is asked.
    """

    classes: int | None = None
    """Number of classes when the labels are class indices; None for real-valued targets."""

    metric_name: str = "accuracy"

    carries_state: bool = False
    """Whether layers carry state from batch to batch (`StatefulRNN`): batches are then never split."""

    metadata: Mapping[str, Any] = MappingProxyType({})
    """What `layers` must know of the data, such as the size of a vocabulary: JSON-able, set by `data`. A
    process that does not read the data is given it before it builds layers."""

    @property
    def name(self) -> str:
        """What reports call this task."""
        return type(self).__name__

    @abstractmethod
    def layers(self) -> list[nn.Module]:
        """The network as consecutive layers, input first. It may be cut between any two of them."""

    @abstractmethod
    def data(self, root: Path | None) -> tuple[Dataset, Dataset]:
        """(training set, test set) of (x, y) pairs; a `TensorDataset` is read fastest.

        root: the folder given by --data-root or DNI_DATA; None when there is none.
        Raises `dni_async.errors.UserError` when a file is missing or damaged.
        """

    def validation(self, root: Path | None) -> Dataset | None:
        """The validation set, which is neither trained on nor tested with; asked for only with --patience.

        root: as for `data`. None: there is none.
        """
        return None

    def loss(self, output: Tensor, y: Tensor) -> Tensor:
        """Mean loss of a batch, a scalar. Cross-entropy for classes, else mean squared error."""
        if self.classes is not None:
            return F.cross_entropy(output, y)
        if output.shape != y.shape:
            raise UserError(
                f"outputs {tuple(output.shape)} and targets {tuple(y.shape)} differ; shape them alike"
            )
        return F.mse_loss(output, y)

    def metric(self, output: Tensor, y: Tensor) -> Tensor:
        """(B,) score of each sample, higher is better; reports give its mean over the test set."""
        if self.classes is None:
            return -(output - y).reshape(len(y), -1).square().mean(1)
        return (output.argmax(-1) == y).float()

    def reported(self, mean: float) -> float:
        """What reports show for the mean of the metric over the test set."""
        return mean

    def condition(self, y: Tensor) -> Tensor:
        """(B, C) what a conditional SG network sees of the labels: one-hot classes, or y as it is.

        (B, ..., C) with as many dimensions as the activations gives each of their places its own.
        """
        if self.classes is None:
            return y.reshape(len(y), -1).float()
        return F.one_hot(y, self.classes).float()

    @property
    def note(self) -> str | None:
        """One line for the user about the data that was really used, after `data` was called."""
        return None


def seed_everything(seed: int) -> None:
    """Make layer initialisation the same in every process."""
    torch.manual_seed(seed)
