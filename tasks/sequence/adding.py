"""Adding: the sum of digits, asked for with the last of them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from tasks.sequence.base import Window
from tasks.sequence.last_step import LastStepTask, last_step_mask


class Adding(LastStepTask):
    """The sum of `length` digits, each a one-hot vector: a regression, in units of ten."""

    name = "adding"
    score_name = "absolute_error"
    inputs, outputs = 10, 1

    @override
    def draw(self, rows: int, generator: torch.Generator) -> Window:
        digits = torch.randint(0, 10, (rows, self.length), generator=generator)
        y = torch.zeros(rows, self.length)
        y[:, -1] = digits.sum(1) / 10
        return Window(F.one_hot(digits, 10).float(), y, last_step_mask(y), is_last=True)

    @override
    def loss(self, out: Tensor, window: Window) -> Tensor:
        assert window.mask is not None
        return ((out.squeeze(2) - window.y).square() * window.mask).sum(1).mean()

    @override
    def cost(self, out: Tensor, window: Window) -> tuple[float, int]:
        """Return the sum of the absolute errors, in units of one, and the number of sequences."""
        assert window.mask is not None
        return float((10 * (out.squeeze(2) - window.y).abs() * window.mask).sum()), len(out)

    @override
    def scores(self, cost: float) -> dict[str, float]:
        return {"absolute_error": cost}
