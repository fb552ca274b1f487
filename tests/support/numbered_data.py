"""Data whose samples are their own numbers, so that a test sees which samples come when."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from launch.job.data import Data


def numbered(count: int, first: int = 0) -> TensorDataset:
    """Return samples from number `first` on: x is the number three times, y the number."""
    y = torch.arange(first, first + count)
    return TensorDataset(y[:, None].expand(count, 3).float().contiguous(), y)


class Pairs(Dataset):
    """The samples of a TensorDataset, one by one: a data set without tensors of its own."""

    def __init__(self, tensors: TensorDataset) -> None:
        self.tensors_ = tensors.tensors

    def __len__(self) -> int:
        return len(self.tensors_[0])

    def __getitem__(self, index: Any) -> tuple[Tensor, ...]:
        return tuple(tensor[index] for tensor in self.tensors_)


def data(
    train: int = 5,
    test: int = 3,
    batch_size: int = 2,
    seed: int = 0,
    wrap: Callable[[TensorDataset], Dataset] = lambda dataset: dataset,
) -> Data:
    """Return training samples from 0 on and test samples from 100 on."""
    return Data(wrap(numbered(train)), wrap(numbered(test, 100)), batch_size, seed)


def labels(pairs: Iterable[tuple[Tensor, Tensor]]) -> list[Any]:
    """Return the numbers of the samples of every batch."""
    return [y.tolist() for _, y in pairs]
