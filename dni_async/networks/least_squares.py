"""The SG network that is fitted in closed form."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Self, override

from dni_async.checks import at_least
from dni_async.networks.base import DNINetwork, NetworkSettings, along, required, zero_output

RIDGE = 1.0
"""Added to the diagonal of the sum of f f', as if each feature had occurred once with a target of zero."""
SOLVE_EVERY = 2
"""Targets per solution, which costs more than adding a target."""

LABELLED_MEMORY = 2000
"""Rows; measured for regressions in two and three stages."""


class LeastSquaresSG(DNINetwork):
    """g = W f + b with f = [h ; tanh h ; y], where W and b are the ridge regression on recent targets.

    ```
    every target             A <- m A + f' f        C <- m C + f' t        m = 1 - rows / memory
    every `SOLVE_EVERY`th    [W b]' <- (A + RIDGE)^-1 C                    f with a 1 for b
    ```

    Gradient descent on W is slow where the directions of h differ in scale, and the gradient may depend on
    the small ones: a cell state reaches 15 where the trace of one bit is 0.01. Least squares are independent
    of scale and have no learning rate, and so follow a network that changes (recursive least squares; with
    bootstrapped targets related to least-squares temporal differences, Bradtke and Barto 1996). tanh h is
    what an LSTM outputs of a cell; where it saturates, so does the gradient.

    h: (B, ..., D), one prediction per row. y: (B, C), repeated for all rows of a sample, or absent.
    Cost: learn 2 products (2D, B) x (B, 2D), and every `SOLVE_EVERY`th time about 10 D^3 multiplications.

    memory: rows over which the weight of a target decays; by default twice the features, and at least
        `LABELLED_MEMORY` where it sees labels. With too many, the targets of an older network mislead; with
        too few, noise does.
    """

    replays = False

    def __init__(
        self, input_size: int, output_size: int, label_size: int = 0, memory: int | None = None
    ) -> None:
        super().__init__(input_size, 0, output_size)
        self.label_size = label_size
        self.output = nn.Linear(2 * input_size + label_size, output_size)
        zero_output(self.output)
        features = self.output.in_features + 1
        self.memory = max(2 * features, LABELLED_MEMORY * bool(label_size)) if memory is None else memory
        at_least(1, memory=self.memory)
        self.squares: Tensor
        self.products: Tensor
        self.register_buffer("squares", torch.zeros(features, features))
        self.register_buffer("products", torch.zeros(features, output_size))
        self._seen = 0

    @classmethod
    @override
    def build(cls, shape: tuple[int, ...], label_size: int, settings: NetworkSettings) -> Self:
        return cls(shape[-1], shape[-1], label_size, settings.memory)

    @override
    def forward(self, input: Tensor, hidden: Any = None, labels: Tensor | None = None) -> tuple[Tensor, Any]:
        return self.output(self._features(input, labels)), None

    @torch.no_grad()
    def regress(self, h: Tensor, labels: Tensor | None, target: Tensor) -> Tensor:
        """As in the base class, but W and b are set at once, and `.grad` stays empty."""
        features = self._features(h, labels)
        prediction = self.output(features)
        f = F.pad(features.flatten(0, -2), (0, 1), value=1.0)
        keep = max(0.0, 1 - len(f) / self.memory)
        self.squares.mul_(keep).addmm_(f.T, f)
        self.products.mul_(keep).addmm_(f.T, target.flatten(0, -2))
        self._seen += 1
        if self._seen % SOLVE_EVERY == 0:
            self._solve()
        return prediction

    @override
    def get_extra_state(self) -> int:
        return self._seen

    @override
    def set_extra_state(self, state: int) -> None:
        self._seen = state

    def _features(self, h: Tensor, labels: Tensor | None) -> Tensor:
        parts = [h, h.tanh()]
        if self.label_size:
            parts.append(along(required(labels, self.label_size), h).to(h.dtype))
        return torch.cat(parts, -1)

    def _solve(self) -> None:
        ridge = torch.full_like(self.squares[0], RIDGE).diag()
        root, failed = torch.linalg.cholesky_ex(self.squares + ridge)
        solution = torch.cholesky_solve(self.products, root)
        # no branch, which would synchronise a GPU
        solved = (failed == 0) & solution.isfinite().all()
        for parameter, found in ((self.output.weight, solution[:-1].T), (self.output.bias, solution[-1])):
            parameter.copy_(torch.where(solved, found, parameter))
