"""The data of a run, cut into batches: the same ones in the same order for every engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

from dni_async.errors import UserError
from dni_async.trees import describe_tree, map_tensors
from launch.config.task import TaskConfig
from launch.job.samples import check_set, size, stack
from tasks.base import Task
from tasks.contiguous import ContiguousBatches

Batch = tuple[Any, Any]
"""Inputs and targets: trees of tensors (B, ...)."""
Split = Callable[[Any], Batch]
"""Makes inputs and targets of a batch of samples; see `Task.batch`."""
Part = tuple[int, int]
"""(i, n): part i of the rows of every batch, which are divided evenly into n parts."""


@dataclass(slots=True)
class Data:
    """Training, test and validation set, and how they are cut into batches.

    Without a validation set evaluations are on the test set.
    """

    train: Dataset[Any]
    test: Dataset[Any]
    batch_size: int
    seed: int
    part: Part = (0, 1)
    validation: Dataset[Any] | None = None
    split: Split = tuple

    def __post_init__(self) -> None:
        for name, dataset in self.sets().items():
            check_set(name, dataset)

    def sets(self) -> dict[str, Dataset[Any]]:
        """Return the data sets by name."""
        validation = {} if self.validation is None else {"validation": self.validation}
        return {"training": self.train, "test": self.test} | validation

    @property
    def evaluated(self) -> Dataset[Any]:
        """The data set that evaluations are on."""
        return self.test if self.validation is None else self.validation

    @property
    def steps_per_epoch(self) -> int:
        """Training batches of an epoch, a short last one included."""
        return _batches_of(self.train, self.batch_size)

    @property
    def evaluation_batches(self) -> int:
        """The number of batches in one evaluation of the whole test or validation set."""
        return _batches_of(self.evaluated, self.batch_size)

    def evaluation_steps(self, evaluations: int) -> set[int]:
        """Return the steps of an epoch after which to evaluate: equally spaced, the last at its end."""
        return {-(-self.steps_per_epoch * k // evaluations) for k in range(1, evaluations + 1)}

    def rows(self, step: int) -> int:
        """Return the number of samples in training batch number `step` of the run, counted from 0."""
        return min(self.batch_size, size(self.train) - step % self.steps_per_epoch * self.batch_size)

    def sample(self) -> Batch:
        """Return one training batch, for shapes and costs; values that are NaN or infinite are zeros."""
        inputs, targets = map_tensors(lambda tensor: tensor.nan_to_num(0.0, 0.0, 0.0), next(self.training(0)))
        return inputs, targets

    def training(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch from number `start` on, in an order that depends on seed and epoch
        alone, so that it is the same for all engines."""
        order = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        return self._split(batches(self.train, self.batch_size, order, self.part, start))

    def evaluation(self, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of `evaluated`, from number `start` on."""
        return self._split(batches(self.evaluated, self.batch_size, part=self.part, start=start))

    def testing(self) -> Iterator[Batch]:
        """Yield the batches of the test set."""
        return self._split(batches(self.test, self.batch_size, part=self.part))

    def _split(self, batches: Iterator[Any]) -> Iterator[Batch]:
        for samples in batches:
            batch = self.split(samples)
            if not (isinstance(batch, tuple) and len(batch) == 2):
                raise UserError(
                    f"batch of the task returned {describe_tree(batch)}; return (inputs, targets)"
                )
            yield batch


def read(config: TaskConfig, task: Task, part: Part = (0, 1), patience: int = 0) -> Data:
    """Return the data of a task; with `patience` also its validation set.

    Raises:
        UserError: there are no data, or no validation set where one is needed.
    """
    root = config.data_folder()
    sets = task.data(root)
    if not isinstance(sets, tuple | list) or len(sets) != 2:
        raise UserError(f"data() of task {task.name} must return a training set and a test set")
    train, test = sets
    validation = task.validation(root) if patience else None
    if patience and validation is None:
        raise UserError(
            f"patience is {patience}, and task {task.name} has no validation set to end early by; "
            "leave it out, or hold samples out (--task-args validation=N; in a task of your own write "
            "`validation`)"
        )
    return Data(train, test, config.batch_size, config.seed, part, validation, task.batch)


def _batches_of(dataset: Dataset[Any], batch_size: int) -> int:
    if isinstance(dataset, ContiguousBatches):
        return dataset.steps(batch_size)
    return -(-size(dataset) // batch_size)


def batches(
    dataset: Dataset[Any],
    batch_size: int,
    shuffle: torch.Generator | None = None,
    part: Part = (0, 1),
    start: int = 0,
) -> Iterator[Any]:
    """Yield batches of samples, in order or shuffled. Tensors are indexed directly, other data sets are read
    by a DataLoader; a `ContiguousBatches` has an order of its own, which is not shuffled.

    Args:
        part: of each batch's rows; of a short last batch it may have no rows.
        start: number of the first batch; no sample before it is read.
    """
    in_order = shuffle is None and not isinstance(dataset, ContiguousBatches)
    if isinstance(dataset, TensorDataset) and in_order:
        for tensors in zip(*(tensor.split(batch_size)[start:] for tensor in dataset.tensors), strict=True):
            yield tuple(part_of(tensor, part) for tensor in tensors)
        return
    indices = _order(dataset, batch_size, shuffle)[start:]
    if not isinstance(dataset, TensorDataset):
        numbers = [index.tolist() for index in indices]
        # without a generator of its own it would draw from the global one, once more in a resumed run
        for tree in DataLoader(dataset, batch_sampler=numbers, collate_fn=stack, generator=torch.Generator()):
            yield map_tensors(lambda tensor: part_of(tensor, part), tree)
        return
    for index in indices:
        index = part_of(index, part)
        # three times as fast as tensor[index]
        yield tuple(tensor.index_select(0, index) for tensor in dataset.tensors)


def _order(dataset: Dataset[Any], batch_size: int, shuffle: torch.Generator | None) -> Sequence[Tensor]:
    """Return the indices of the samples in each batch."""
    if isinstance(dataset, ContiguousBatches):
        return dataset.order(batch_size).unbind()
    count = size(dataset)
    order = torch.arange(count) if shuffle is None else torch.randperm(count, generator=shuffle)
    return order.split(batch_size)


def part_of(rows: Tensor, part: Part) -> Tensor:
    """Return one of several equal parts of the rows; if they do not divide, the first parts have one more."""
    number, parts = part
    return rows.tensor_split(parts)[number] if parts > 1 else rows
