"""Tasks of `launch.gpu_check`: networks of any size on random data, so that nothing has to be downloaded."""

from __future__ import annotations

import itertools
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import TensorDataset
from typing_extensions import override

from tasks.base import Task
from tasks.transformer import decoder

FEATURES, CLASSES, SYMBOLS = 256, 10, 128


class Wide(Task):
    """A fully connected network on (256,) normal inputs, whose classes a fixed linear map has chosen."""

    classes = CLASSES

    def __init__(
        self, width: int = 64, depth: int = 4, dropout: float = 0.0, samples: int = 512, tests: int = 128
    ) -> None:
        self.width, self.depth, self.dropout = width, depth, dropout
        self.samples, self.tests = samples, tests

    @override
    def layers(self) -> list[nn.Module]:
        widths = [FEATURES, *[self.width] * (self.depth - 1)]
        hidden = [
            nn.Sequential(nn.Linear(a, b), nn.ReLU(), nn.Dropout(self.dropout))
            for a, b in itertools.pairwise(widths)
        ]
        return [*hidden, nn.Linear(self.width, CLASSES)]

    @override
    def data(self, root: Path | None) -> tuple[TensorDataset, TensorDataset]:
        chance = torch.Generator().manual_seed(0)
        x = torch.randn(self.samples + self.tests, FEATURES, generator=chance)
        y = (x @ torch.randn(FEATURES, CLASSES, generator=chance)).argmax(1)
        return (
            TensorDataset(x[: self.samples], y[: self.samples]),
            TensorDataset(x[self.samples :], y[self.samples :]),
        )


class Gpt(Task):
    """A GPT on random symbols, each of which the one before it decides."""

    classes = SYMBOLS

    def __init__(
        self,
        width: int = 32,
        depth: int = 4,
        heads: int = 4,
        context: int = 32,
        samples: int = 64,
        tests: int = 16,
    ) -> None:
        self.width, self.depth, self.heads, self.context = width, depth, heads, context
        self.samples, self.tests = samples, tests

    @override
    def layers(self) -> list[nn.Module]:
        return decoder(SYMBOLS, depth=self.depth, width=self.width, heads=self.heads, context=self.context)

    @override
    def data(self, root: Path | None) -> tuple[TensorDataset, TensorDataset]:
        chance = torch.Generator().manual_seed(0)
        follows = torch.randperm(SYMBOLS, generator=chance)
        text = [torch.randint(SYMBOLS, (self.samples + self.tests,), generator=chance)]
        for _ in range(self.context):
            text.append(follows[text[-1]])
        x, y = torch.stack(text[:-1], 1), torch.stack(text[1:], 1)
        return (
            TensorDataset(x[: self.samples], y[: self.samples]),
            TensorDataset(x[self.samples :], y[self.samples :]),
        )
