"""A regression whose gradients depend on the whole input: y = sin(2 w x) + x1 x2 / 2 + offset."""

from __future__ import annotations

import itertools
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import TensorDataset

from tasks.base import Task

FEATURES = 8


class Waves(Task):
    """(8,) normal inputs; seven layers, linear and ReLU in turn."""

    def __init__(self, width: int = 64, offset: float = 0.0, train: int = 3200, test: int = 1000) -> None:
        self.width, self.offset, self.sizes = width, offset, (train, test)

    def layers(self) -> list[nn.Module]:
        widths = [FEATURES, self.width, self.width, self.width]
        hidden = [layer for a, b in itertools.pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU())]
        return [*hidden, nn.Linear(self.width, 1)]

    def data(self, root: Path | None = None) -> tuple[TensorDataset, TensorDataset]:
        generator = torch.Generator().manual_seed(0)
        w = torch.randn(FEATURES, generator=generator) / FEATURES**0.5
        train, test = (self._samples(w, count, generator) for count in self.sizes)
        return train, test

    def _samples(self, w: torch.Tensor, count: int, generator: torch.Generator) -> TensorDataset:
        x = torch.randn(count, FEATURES, generator=generator)
        y = (2 * x @ w).sin() + x[:, 0] * x[:, 1] / 2 + self.offset
        return TensorDataset(x, y[:, None])
