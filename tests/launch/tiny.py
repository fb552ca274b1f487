"""A task that trains in milliseconds, with layers of one's choice."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import TensorDataset

from launch.config import TrainConfig
from launch.source import Data
from tasks.base import Task

FEATURES, CLASSES = 6, 3


def five_layers() -> list[nn.Module]:
    return [
        nn.Sequential(nn.Linear(FEATURES, 8), nn.BatchNorm1d(8)),
        nn.ReLU(),
        nn.Linear(8, 7),
        nn.Dropout(0.5),
        nn.Linear(7, CLASSES),
    ]


def plain_layers() -> list[nn.Module]:
    """Five layers without chance in them."""
    widths = [FEATURES, 8, 7, 6, 5]
    hidden = [nn.Sequential(nn.Linear(a, b), nn.ReLU()) for a, b in itertools.pairwise(widths)]
    return [*hidden, nn.Linear(5, CLASSES)]


class Tiny(Task):
    """(6,) normal inputs, 3 classes of chance."""

    classes = CLASSES

    def __init__(
        self, make: Callable[[], list[nn.Module]] = five_layers, train: int = 50, test: int = 20
    ) -> None:
        self.make, self.sizes = make, (train, test)

    def layers(self) -> list[nn.Module]:
        return self.make()

    def data(self, root: Path | None = None) -> tuple[TensorDataset, TensorDataset]:
        generator = torch.Generator().manual_seed(0)
        train, test = (
            TensorDataset(
                torch.randn(n, FEATURES, generator=generator),
                torch.randint(0, CLASSES, (n,), generator=generator),
            )
            for n in self.sizes
        )
        return train, test


def data_of(task: Task, config: TrainConfig) -> Data:
    return Data(*task.data(None), config.batch_size, config.seed)
