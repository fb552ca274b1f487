"""An exponential moving average of weights, for evaluation.

update       1       2       3            decay of update n: (1 + n) / (10 + n), at most the given one, so
weights      w1      w2      w3           that the initial weights do not dominate a short run
average      a1      a2      a3           a3 = d a2 + (1 - d) w3
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """The average of some parameters; buffers such as the running means of batch norm are not averaged.

    Args:
        parameters: in the order in which the averages are saved.
        decay: from 0 to below 1, such as 0.999.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], decay: float) -> None:
        self._parameters = list(parameters)
        self.decay = decay
        self.averages = [parameter.detach().clone() for parameter in self._parameters]

    @torch.no_grad()
    def update(self, updates: int) -> None:
        """Take up the weights after so many updates."""
        decay = min(self.decay, (1 + updates) / (10 + updates))
        if self.averages:
            torch._foreach_lerp_(self.averages, [p.detach() for p in self._parameters], 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Have the parameters be the averages inside the block."""
        self.swap()
        try:
            yield
        finally:
            self.swap()

    def swap(self) -> None:
        """Put the averages into the module and keep its parameters here, or the other way round."""
        for i, parameter in enumerate(self._parameters):
            parameter.data, self.averages[i] = self.averages[i], parameter.data

    def restart(self) -> None:
        """Begin again with the weights as they are."""
        self.load([None] * len(self.averages))

    @torch.no_grad()
    def load(self, averages: Sequence[Tensor | None]) -> None:
        """Take up saved averages; None for a parameter whose average starts from what it is now."""
        for mine, parameter, saved in zip(self.averages, self._parameters, averages, strict=True):
            mine.copy_(parameter if saved is None else saved)
