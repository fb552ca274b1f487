"""What a task is: layers, loss, data, metric, and what the SG networks are conditioned on."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import numpy
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset, default_collate

from dni_async.errors import UserError
from dni_async.trees import describe_tree, first_tensor

Metric = Callable[[Any, Any], Tensor | float]
"""(outputs (B, ...), targets) -> scores (B,), or one for each label, or their mean."""


class Task(ABC):
    """A network to train and the data to train it on: the base class of a user's own task.

    Only `layers` and `data` must be written; the rest defaults to classification with `classes` classes, or
    to regression where `classes` is None. The constructor's keyword arguments are the task's own settings
    (`--task-args`). Every process builds a `Task`, so its constructor must not read data or build layers.
    """

    classes: int | None = None
    """Number of classes when the labels are class indices; None for real-valued targets."""

    ignore_index: int = -100
    """A class label, such as that of padding, which loss, metric and SG networks leave out."""

    multi_label: bool = False
    """Whether a sample may have several classes: labels are then floats (B, ..., classes) from 0 to 1."""

    carries_state: bool = False
    """Whether layers carry state from batch to batch (`StatefulRNN`): batches are then never split."""

    extra_metrics: Mapping[str, Metric] = MappingProxyType({})
    """More metrics of evaluations, by name: functions (outputs, targets) -> scores (B,), or their mean."""

    metadata: Mapping[str, Any] = MappingProxyType({})
    """What `layers` must know of the data, such as the size of a vocabulary: JSON-able, set by `data`. The
    processes that do not read the data receive it before they build layers."""

    files: Mapping[str, bytes] = MappingProxyType({})
    """Files by name that belong to the trained network, such as its tokenizer; set by `data`, and written to
    the folder "files" of --out when a run begins."""

    defaults: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    """Settings of a training that suit the task, such as {"lr": 3e-3}, by their names in Python; the command
    line overrides them."""

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
        """Return the network as consecutive layers, input first. It may be cut between any two of them.

        The first takes the inputs of a batch (see `batch`) as its one argument, every other one what the one
        before it returned: a tensor, or a tuple, list or dict of tensors, nested at will.
        """

    @abstractmethod
    def data(self, root: Path | None) -> tuple[Dataset, Dataset]:
        """Return (training set, test set). See `batch` for their samples.

        Each is map-style (a `TensorDataset` is read fastest), iterable (`__iter__`), or a loader of batches,
        such as a `DataLoader` or torchdata's `StatefulDataLoader`.

        Args:
            root: the folder given by --data-root or DNI_DATA; None when neither is given.

        Raises:
            dni_async.errors.UserError: a file is missing or damaged.
        """

    def restore_files(self, folder: Path) -> None:
        """Read what `data` needs of the `files` of a finished run, in this folder. Raises UserError."""

    def collate(self, samples: list[Any]) -> Any:
        """Return a batch of samples, a tree of tensors (B, ...), by default torch's `default_collate`.

        It may run in other processes (--loader-workers). Not called for a loader of the task's own.
        """
        return default_collate(samples)

    def batch(self, samples: Any) -> tuple[Any, Any]:
        """Return (inputs, targets) of a batch of samples, which `collate` has made.

            samples                               inputs                 targets
            [x, y]                                x                      y
            [a, b, c]                             (a, b)                 c
            {"ids", "mask", "labels"}             {"ids", "mask"}        labels       (or "label")

        Both may be any trees of tensors (B, ...), of the same structure for every batch. `loss`, `metric`,
        `valid` and `condition` get the targets as they are returned here.

        Raises:
            UserError: there are no targets in the samples.
        """
        if isinstance(samples, Mapping):
            name = next((name for name in ("labels", "label") if name in samples), None)
            inputs = {key: value for key, value in samples.items() if key != name}
            if name is not None and inputs:
                return inputs, samples[name]
        elif isinstance(samples, tuple | list) and len(samples) > 1:
            *first, targets = samples
            return first[0] if len(first) == 1 else tuple(first), targets
        raise UserError(
            f"a batch of task {self.name} is {describe_tree(samples)}; give samples (x, y), more inputs in "
            'front of y, or a dict with "labels", or write `batch` in the task'
        )

    def validation(self, root: Path | None) -> Dataset | None:
        """Return the validation set, or None when the task has none; called only with --patience."""
        return None

    def loss(self, output: Tensor, y: Tensor) -> Tensor:
        """Return the mean loss of a batch, a scalar: cross-entropy for classes, else mean squared error.

        For labels (B, ...) outputs are (B, ..., classes), or (B, classes, ...) as in torch. The mean is over
        all labels but those equal to `ignore_index`; it is zero where there are no others. With `multi_label`
        it is binary cross-entropy, of outputs and labels of the same shape.
        """
        if not (isinstance(output, Tensor) and isinstance(y, Tensor)):
            raise UserError(
                f"outputs are {describe_tree(output)} and targets {describe_tree(y)}; write `loss` and "
                f"`metric` in task {self.name}"
            )
        if self.multi_label:
            return self._binary_loss(output, y)
        if self.classes is None:
            _check_alike(output, y)
            return F.mse_loss(output, y)
        if y.is_floating_point():  # probabilities, in a task with a metric of its own
            return F.cross_entropy(output, y)
        rows, labels = output, y.long()
        if y.ndim != 1:
            rows, labels = _classes_last(output, y, self.classes).flatten(0, -2), labels.flatten()
        loss = F.cross_entropy(rows, labels, ignore_index=self.ignore_index)
        if loss.isnan() and not self.valid(labels).any():
            return F.cross_entropy(rows, labels, ignore_index=self.ignore_index, reduction="sum")
        return loss

    def _binary_loss(self, output: Tensor, y: Tensor) -> Tensor:
        _check_alike(output, y)
        counts = self.valid(y)
        labels = y[counts].to(output.dtype)
        total = F.binary_cross_entropy_with_logits(output[counts], labels, reduction="sum")
        return total / counts.sum().clamp(min=1)

    def valid(self, y: Any) -> Tensor:
        """Return which class labels count, in the shape of y: all but those equal to `ignore_index`.

        Of a tree of targets, those of its first tensor.
        """
        return first_tensor(y) != self.ignore_index

    def metric(self, output: Tensor, y: Tensor) -> Tensor:
        """Return (N,) scores, higher is better, whose mean over the test set reports show.

        One for each sample; by default one for each class label that counts (see `valid`).
        """
        if self.multi_label:
            return ((output > 0) == (y > 0.5))[self.valid(y)].float()
        if self.classes is None:
            return -(output - y).reshape(len(y), -1).square().mean(1)
        return (_classes_last(output, y, self.classes).argmax(-1) == y)[self.valid(y)].float()

    def reported(self, mean: float) -> float:
        """Return the number that reports show for the mean of the metric over a set."""
        return mean

    def condition(self, y: Any) -> Tensor:
        """Return (B, C), the labels as a conditional SG network sees them: one-hot classes, or y as it is.

        With as many dimensions as the activations, (B, ..., C), each of their positions has its own labels.
        The row of a label that does not count is zero. Of a tree of targets, those of its first tensor.
        """
        y = first_tensor(y)
        if self.multi_label:
            return y.float() * self.valid(y)
        if self.classes is None:
            return y.reshape(len(y), -1).float()
        columns, valid = y.long().unsqueeze(-1), self.valid(y).unsqueeze(-1)
        # a fifth of the time of F.one_hot for a large vocabulary
        rows = torch.zeros(*y.shape, self.classes, device=y.device)
        return rows.scatter_(-1, columns * valid, valid.float())

    def class_indices(self, y: Any) -> Tensor:
        """Return the class labels as integers, -1 for one that does not count (see `valid`)."""
        return first_tensor(y).long().masked_fill(~self.valid(y), -1)


def add_metrics(task: Task, metrics: Mapping[str, Metric]) -> None:
    """Give a task more metrics. Raises UserError for a name that records cannot have, and for no function."""
    for name, metric in metrics.items():
        if not name.isidentifier() or name in ("loss", task.metric_name.replace(" ", "_")):
            raise UserError(f"metric has the name {name!r}; choose another, of letters, digits and _")
        if not callable(metric):
            raise UserError(f"metric {name} is {metric!r}; give a function of outputs and targets")
    if metrics:
        task.extra_metrics = {**task.extra_metrics, **metrics}


def _check_alike(output: Tensor, y: Tensor) -> None:
    if output.shape != y.shape:
        raise UserError(
            f"outputs {tuple(output.shape)} and targets {tuple(y.shape)} differ; shape them alike"
        )


def _classes_last(output: Tensor, y: Tensor, classes: int) -> Tensor:
    """Return the outputs as (B, ..., classes) for labels y (B, ...); they may be (B, classes, ...)."""
    if output.shape[:-1] == y.shape:
        return output
    if output.shape[1:2] == (classes,) and output.shape[:1] + output.shape[2:] == y.shape:
        return output.movedim(1, -1)
    raise UserError(
        f"outputs {tuple(output.shape)} do not fit class labels {tuple(y.shape)}; "
        "give outputs (B, ..., classes) for labels (B, ...)"
    )


def seed_everything(seed: int) -> None:
    """Seed the generators of torch, numpy and Python: those of layers, and of data sets that draw."""
    torch.manual_seed(seed)
    numpy.random.seed(seed % 2**32)
    random.seed(seed)
