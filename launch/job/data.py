"""The data of a run, cut into batches: the same ones in the same order for every engine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Sized
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

from dni_async.errors import UserError
from launch.config.task import TaskConfig
from tasks.base import Task
from tasks.contiguous import ContiguousBatches

Batch = tuple[Tensor, Tensor]
Part = tuple[int, int]
"""(i, n): the rows of every batch are shared out evenly among n, and these are those of number i."""


@dataclass(slots=True)
class Data:
    """What to train on and to evaluate on, and how it is cut into batches.

    validation: None: evaluations are on the test set.
    """

    train: Dataset[Batch]
    test: Dataset[Batch]
    batch_size: int
    seed: int
    part: Part = (0, 1)
    validation: Dataset[Batch] | None = None

    def __post_init__(self) -> None:
        for name, dataset in self.sets().items():
            if not size(dataset):
                raise UserError(f"the {name} set is empty; check the task's data")

    def sets(self) -> dict[str, Dataset[Batch]]:
        """By name."""
        validation = {} if self.validation is None else {"validation": self.validation}
        return {"training": self.train, "test": self.test} | validation

    @property
    def evaluated(self) -> Dataset[Batch]:
        """What evaluations are on."""
        return self.test if self.validation is None else self.validation

    @property
    def steps_per_epoch(self) -> int:
        """Training batches of an epoch, a short last one included."""
        return _batches_of(self.train, self.batch_size)

    @property
    def evaluation_batches(self) -> int:
        """Batches of an evaluation."""
        return _batches_of(self.evaluated, self.batch_size)

    def evaluation_steps(self, evaluations: int) -> set[int]:
        """After how many steps of an epoch there is an evaluation: equally spaced, the last at its end."""
        return {-(-self.steps_per_epoch * k // evaluations) for k in range(1, evaluations + 1)}

    def rows(self, step: int) -> int:
        """Samples in training batch number `step` of the run, counted from 0."""
        return min(self.batch_size, size(self.train) - step % self.steps_per_epoch * self.batch_size)

    def sample(self) -> Batch:
        """One training batch, to learn shapes and to measure costs; with zeros for what is NaN or infinite,
        which training meets in its own way."""
        x, y = (tensor.nan_to_num(0.0, 0.0, 0.0) for tensor in next(self.training(0)))
        return x, y

    def training(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from number `start` on; their order depends on seed and epoch alone, so all
        engines share it."""
        return batches(
            self.train,
            self.batch_size,
            torch.Generator().manual_seed(self.seed * 1_000_003 + epoch),
            self.part,
            start,
        )

    def evaluation(self, start: int = 0) -> Iterator[Batch]:
        """The whole of what evaluations are on, from batch number `start` on."""
        return batches(self.evaluated, self.batch_size, part=self.part, start=start)

    def testing(self) -> Iterator[Batch]:
        """The whole test set."""
        return batches(self.test, self.batch_size, part=self.part)


def read(config: TaskConfig, task: Task, part: Part = (0, 1), patience: int = 0) -> Data:
    """Return the data of a task; with `patience` also its validation set.

    Raises:
        UserError: there are no data, or no validation set where one is needed.
    """
    root = config.data_folder()
    train, test = task.data(root)
    validation = task.validation(root) if patience else None
    if patience and validation is None:
        raise UserError(
            f"patience is {patience}, and task {task.name} has no validation set to end early by; "
            "leave it out, or hold samples out (--task-args validation=N; in a task of your own write "
            "`validation`)"
        )
    return Data(train, test, config.batch_size, config.seed, part, validation)


def size(dataset: Dataset[Batch]) -> int:
    """Samples in a map-style data set."""
    if not hasattr(dataset, "__len__"):
        raise UserError(f"data set {type(dataset).__name__} has no length; give a map-style data set")
    return len(cast(Sized, dataset))


def _batches_of(dataset: Dataset[Batch], batch_size: int) -> int:
    if isinstance(dataset, ContiguousBatches):
        return dataset.steps(batch_size)
    return -(-size(dataset) // batch_size)


def batches(
    dataset: Dataset[Batch],
    batch_size: int,
    shuffle: torch.Generator | None = None,
    part: Part = (0, 1),
    start: int = 0,
) -> Iterator[Batch]:
    """Batches of (x, y), in order or shuffled; tensors are indexed directly, the rest goes by DataLoader.

    A `ContiguousBatches` has an order of its own, which is not shuffled.
    part: of each batch's rows; may be none of a short last batch. start: number of the first batch; no sample
    before it is read.
    """
    in_order = shuffle is None and not isinstance(dataset, ContiguousBatches)
    if isinstance(dataset, TensorDataset) and in_order:
        x, y = dataset.tensors
        for x_batch, y_batch in zip(x.split(batch_size)[start:], y.split(batch_size)[start:], strict=True):
            yield part_of(x_batch, part), part_of(y_batch, part)
        return
    indices = _order(dataset, batch_size, shuffle)[start:]
    if not isinstance(dataset, TensorDataset):
        numbers = [index.tolist() for index in indices]
        # a generator of its own: it would draw from the one of the process, in a resumed run once more
        for x, y in DataLoader(dataset, batch_sampler=numbers, generator=torch.Generator()):
            yield part_of(x, part), part_of(y, part)
        return
    x, y = dataset.tensors
    for index in indices:
        index = part_of(index, part)
        yield x.index_select(0, index), y.index_select(0, index)  # three times as fast as x[index]


def _order(dataset: Dataset[Batch], batch_size: int, shuffle: torch.Generator | None) -> Sequence[Tensor]:
    """The numbers of the samples in each batch."""
    if isinstance(dataset, ContiguousBatches):
        return dataset.order(batch_size).unbind()
    count = size(dataset)
    order = torch.arange(count) if shuffle is None else torch.randperm(count, generator=shuffle)
    return order.split(batch_size)


def part_of(rows: Tensor, part: Part) -> Tensor:
    """One of several equal parts of the rows; where they do not divide, the first parts have one more."""
    number, parts = part
    return rows.tensor_split(parts)[number] if parts > 1 else rows
