"""Strings that repeat themselves: what one position needs to know stands at others."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset
from typing_extensions import override

from dni_async.checks import at_least
from tasks.base import Task
from tasks.transformer import check_heads, decoder

PERIODS = (5, 16)
"""Lengths of the parts that repeat: from 5 to 15."""
TESTED = 512
SEED = 5


class Induction(Task):
    """The next symbol of random strings with a random period of 5 to 15 (an induction head finds it).

    The metric is bits per symbol on the second half of each string, where the period has been seen.
    """

    name = "induction"
    metric_name = "bits_per_symbol"
    classes = 16
    defaults: ClassVar[Mapping[str, Any]] = {
        "batch_size": 8,
        "lr": 3e-3,
        "optimizer_args": ("betas=0.9,0.99",),
        "schedule": "cosine",
        "warmup": 0.05,
    }

    def __init__(
        self, *, depth: int = 2, width: int = 32, heads: int = 4, context: int = 32, samples: int = 12_000
    ) -> None:
        """Depth: blocks; context: symbols of a string; samples: of the training set."""
        self.depth, self.width, self.heads = depth, width, heads
        self.samples = at_least(1, depth=depth, width=width, heads=heads, samples=samples)
        self.context = at_least(2 * PERIODS[1], context=context)
        check_heads(width, heads)

    @override
    def layers(self) -> list[nn.Module]:
        return decoder(
            self.classes, depth=self.depth, width=self.width, heads=self.heads, context=self.context
        )

    @override
    def data(self, root: Path | None) -> tuple[TensorDataset, TensorDataset]:
        generator = torch.Generator().manual_seed(SEED)
        test, train = (periodic(count, self.context, generator) for count in (TESTED, self.samples))
        return train, test

    @override
    def metric(self, output: Tensor, y: Tensor) -> Tensor:
        """Return (B,) mean cross-entropies of the second half of each string (nats)."""
        half = y.shape[1] // 2
        each = F.cross_entropy(output[:, half:].flatten(0, 1), y[:, half:].flatten(), reduction="none")
        return each.view(len(y), -1).mean(1)

    @override
    def reported(self, mean: float) -> float:
        return mean / math.log(2)


def periodic(count: int, length: int, generator: torch.Generator) -> TensorDataset:
    """Return strings x (count, length), and the symbol that follows each of theirs, y (count, length)."""
    period = torch.randint(*PERIODS, (count, 1), generator=generator)
    symbols = torch.randint(Induction.classes, (count, PERIODS[1]), generator=generator)
    strings = symbols.gather(1, torch.arange(length + 1) % period)
    return TensorDataset(strings[:, :-1].contiguous(), strings[:, 1:].contiguous())
