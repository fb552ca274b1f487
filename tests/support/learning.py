"""A task that truncated BPTT cannot learn and a synthetic gradient can."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dni_async.recurrent.through_time import MakePredictor, ThroughTime


class Remembers(nn.Module):
    """Keeps w times the first input of a sequence; whoever reads it later wants w to be 1."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(0.1))

    def forward(self, x: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        kept = self.w * x[:, 0] if state is None else state
        return kept.unsqueeze(1).expand_as(x), kept


def lesson(make: MakePredictor | None, sequences: int = 400, **settings: Any) -> tuple[float, ThroughTime]:
    """What w becomes when the error shows one window after the input, and the trainer."""
    core = Remembers()
    optimizer = torch.optim.SGD(core.parameters(), lr=1e-2)
    through = ThroughTime(core, make, **settings)
    generator = torch.Generator().manual_seed(0)
    for _ in range(sequences):
        x = torch.randn(16, 1, 1, generator=generator)
        through.backward(0.0 * through(x).sum())
        out = through(torch.zeros_like(x))
        if make is None:
            out = out.detach().requires_grad_()  # the second window has no weights of its own
        through.backward((out - x).square().mean(), ends=True)
        optimizer.step()
        optimizer.zero_grad()
    return core.w.item(), through
