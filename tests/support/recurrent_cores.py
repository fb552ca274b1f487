"""Recurrent cores of every kind that the project takes, for tests."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

INPUTS, HIDDEN = 5, 6


class LeakyCore(nn.Module):
    """A core as a user may write one: its state is a tensor and a list."""

    def __init__(self) -> None:
        super().__init__()
        self.inward = nn.Linear(INPUTS, HIDDEN)

    def forward(self, x: Tensor, state: object) -> tuple[Tensor, tuple[Tensor, list[Tensor]]]:
        level, (count,) = state if state is not None else (torch.zeros(len(x), 2, 3), [torch.zeros(len(x))])  # type: ignore[misc]
        outs = []
        for step in x.unbind(1):
            level = 0.9 * level + self.inward(step).view(len(x), 2, 3)
            outs.append(level.flatten(1).tanh())
        return torch.stack(outs, 1), (level, [count + 1])


CORES: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "LSTM": (lambda: nn.LSTM(INPUTS, HIDDEN, 2), 24),
    "LSTM, batch first": (lambda: nn.LSTM(INPUTS, HIDDEN, 2, batch_first=True), 24),
    "LSTM with projection": (lambda: nn.LSTM(INPUTS, HIDDEN, proj_size=2), 8),
    "GRU": (lambda: nn.GRU(INPUTS, HIDDEN), 6),
    "RNN": (lambda: nn.RNN(INPUTS, HIDDEN), 6),
    "LSTMCell": (lambda: nn.LSTMCell(INPUTS, HIDDEN), 12),
    "GRUCell": (lambda: nn.GRUCell(INPUTS, HIDDEN), 6),
    "RNNCell": (lambda: nn.RNNCell(INPUTS, HIDDEN), 6),
    "user's own": (LeakyCore, 7),
}
"""By name: what makes the core of INPUTS inputs, and the size of its state per row."""


class Adds(nn.Module):
    """A core without weights, whose state is the sum of its inputs."""

    def forward(self, x: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        start = torch.zeros_like(x[:, 0]) if state is None else state
        out = start.unsqueeze(1) + x.cumsum(1)
        return out, out[:, -1]
