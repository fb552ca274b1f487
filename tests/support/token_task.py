"""A task with a label per position, most of them ignored."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from torch.utils.data import TensorDataset

from tasks.base import Task

STEPS, SYMBOLS, CLASSES = 5, 7, 3


class Tokens(Task):
    """(T,) symbols and a class for each, as int32; some are ignored, and half of the samples have no others.

    Many a batch of two has nothing to learn from.
    """

    classes = CLASSES

    def __init__(self, train: int = 50, test: int = 21) -> None:
        self.sizes = train, test

    def layers(self) -> list[nn.Module]:
        return [
            nn.Embedding(SYMBOLS, 8),
            nn.Sequential(nn.Linear(8, 8), nn.ReLU()),
            nn.Linear(8, CLASSES),
        ]

    def data(self, root: Path | None = None) -> tuple[TensorDataset, TensorDataset]:
        generator = torch.Generator().manual_seed(0)
        train, test = (_tokens(size, generator) for size in self.sizes)
        return train, test


def _tokens(count: int, generator: torch.Generator) -> TensorDataset:
    x = torch.randint(0, SYMBOLS, (count, STEPS), generator=generator)
    y = (x % CLASSES).int()
    y[torch.rand(y.shape, generator=generator) < 0.3] = Task.ignore_index
    y[::2] = Task.ignore_index
    return TensorDataset(x, y)
