"""Argmax: the position of the largest number, asked for with the last of them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from tasks.sequence.base import Window
from tasks.sequence.last_step import LastStepTask, last_step_mask


class Argmax(LastStepTask):
    """The position of the largest of `length` numbers between 0 and 1: a class per position."""

    name = "argmax"
    score_name = "error_rate"
    inputs = 1

    @property
    def outputs(self) -> int:  # type: ignore[override]
        """One class per position."""
        return self.length

    @override
    def draw(self, rows: int, generator: torch.Generator) -> Window:
        x = torch.rand(rows, self.length, generator=generator)
        y = torch.zeros(rows, self.length, dtype=torch.long)
        y[:, -1] = x.argmax(1)
        return Window(x.unsqueeze(2), y, last_step_mask(x), is_last=True)

    @override
    def loss(self, out: Tensor, window: Window) -> Tensor:
        assert window.mask is not None
        each = F.cross_entropy(out.flatten(0, 1), window.y.flatten(), reduction="none")
        return (each.view_as(window.mask) * window.mask).sum(1).mean()

    @override
    def cost(self, out: Tensor, window: Window) -> tuple[float, int]:
        """Return the number of wrong answers, and of sequences."""
        return float((out[:, -1].argmax(1) != window.y[:, -1]).sum()), len(out)

    @override
    def scores(self, cost: float) -> dict[str, float]:
        return {"error_rate": cost, "accuracy": 1.0 - cost}
