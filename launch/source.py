"""Where batches come from: the stream of messages that stage 0 works through.

epoch 1: train train ... train | test ... test | EPOCH    epoch 2: ...    STOP
         every second or so a REPORT mark in between
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sized
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

from dni_async.errors import UserError
from dni_async.messages import Activation, Mark, MarkKind, Message

Batch = tuple[Tensor, Tensor]


@dataclass(slots=True)
class Data:
    """A training and a test set, and how they are cut into batches."""

    train: Dataset[Batch]
    test: Dataset[Batch]
    batch_size: int
    seed: int

    def __post_init__(self) -> None:
        for name, dataset in (("training", self.train), ("test", self.test)):
            if not size(dataset):
                raise UserError(f"the {name} set is empty; check the task's data")

    @property
    def steps_per_epoch(self) -> int:
        """Training batches of an epoch, a short last one included."""
        return -(-size(self.train) // self.batch_size)

    def sample(self) -> Batch:
        """One training batch, to learn shapes and to measure costs."""
        return next(self.training(0))

    def training(self, epoch: int) -> Iterator[Batch]:
        """The batches of an epoch; the order depends on seed and epoch alone, so all engines share it."""
        return batches(
            self.train, self.batch_size, torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        )

    def evaluation(self) -> Iterator[Batch]:
        """The whole test set."""
        return batches(self.test, self.batch_size)


def size(dataset: Dataset[Batch]) -> int:
    """Samples in a map-style data set."""
    if not hasattr(dataset, "__len__"):
        raise UserError(f"data set {type(dataset).__name__} has no length; give a map-style data set")
    return len(cast(Sized, dataset))


def batches(
    dataset: Dataset[Batch], batch_size: int, shuffle: torch.Generator | None = None
) -> Iterator[Batch]:
    """Batches of (x, y), in order or shuffled; tensors are indexed directly, the rest goes by DataLoader."""
    if not isinstance(dataset, TensorDataset):
        yield from DataLoader(dataset, batch_size, shuffle=shuffle is not None, generator=shuffle)
        return
    x, y = dataset.tensors
    if shuffle is None:
        yield from zip(x.split(batch_size), y.split(batch_size), strict=True)
        return
    for index in torch.randperm(len(x), generator=shuffle).split(batch_size):
        yield x.index_select(0, index), y.index_select(0, index)  # three times as fast as x[index]


def stream(data: Data, epochs: int, device: torch.device, clock: Callable[[], float]) -> Iterator[Message]:
    """All messages of a run, in order. A REPORT mark goes in when a second has passed since the last."""
    step, told = 0, clock()
    for epoch in range(1, epochs + 1):
        for x, y in data.training(epoch):
            yield Activation(step, 0, x.to(device), y.to(device))
            step += 1
            if clock() - told > 1.0:
                told = clock()
                yield Mark(MarkKind.REPORT, step, epoch)
        for number, (x, y) in enumerate(data.evaluation()):
            yield Activation(number, 0, x.to(device), y.to(device), train=False)
        yield Mark(MarkKind.EPOCH, step, epoch)
    yield Mark(MarkKind.STOP, step, epochs)
