"""The linear SG network, fitted in closed form instead of step by step."""

from __future__ import annotations

import torch
from torch import Tensor

from dni_async.networks.linear import LinearSG

RIDGE = 1.0
"""Added to the diagonal of the sum of f f': as if one more row of ones per feature had been seen."""
SOLVE_EVERY = 4
"""Targets from one solution to the next, which costs more than adding a target up."""


class LeastSquaresSG(LinearSG):
    """g = W [h ; y] + b, where W and b are the ridge regression on the targets of late.

    With f = [h ; y ; 1] over the rows of a batch, and a target t for each:

        every target             A <- m A + f' f         m = 1 - 1 / memory: old targets fade
                                 C <- m C + f' t
        every `SOLVE_EVERY`th    [W b]' <- (A + RIDGE)^-1 C

    Gradient descent on W is as slow as the directions of h differ in size, and what tells a gradient may lie
    in the small ones: a cell state reaches 15 where the trace of one bit is a hundredth. Least squares know
    no such difference, and no learning rate (recursive least squares; with bootstrapped targets, as in
    least-squares temporal differences, Bradtke and Barto 1996).

    memory: batches over which the targets fade; times the rows it should be well above the features.
    Cost with D features: learn 2 products (D, B) x (B, D), and every `SOLVE_EVERY`th time D^3 times 2.3.
    """

    def __init__(self, input_size: int, output_size: int, label_size: int = 0, memory: int = 50) -> None:
        super().__init__(input_size, output_size, label_size)
        self.memory = memory
        features = input_size + label_size + 1
        self.seen = 0
        self.squares: Tensor
        self.products: Tensor
        self.register_buffer("squares", torch.zeros(features, features))
        self.register_buffer("products", torch.zeros(features, output_size))

    @torch.no_grad()
    def regress(self, h: Tensor, labels: Tensor | None, target: Tensor) -> Tensor:
        """As the base class, but W and b are set at once: nothing is left in `.grad` for an optimizer."""
        features = self._features(h, labels)
        prediction = self.output(features)
        f = torch.nn.functional.pad(features.flatten(0, -2), (0, 1), value=1.0)
        keep = 1 - 1 / self.memory
        self.squares.mul_(keep).addmm_(f.T, f)
        self.products.mul_(keep).addmm_(f.T, target.flatten(0, -2))
        self.seen += 1
        if self.seen % SOLVE_EVERY == 0:
            self._solve()
        return prediction

    def _solve(self) -> None:
        ridge = RIDGE * torch.eye(len(self.squares), dtype=self.squares.dtype, device=self.squares.device)
        root, failed = torch.linalg.cholesky_ex(self.squares + ridge)
        solution = torch.cholesky_solve(self.products, root)
        # without a branch, for which a GPU would have to be waited for
        solved = (failed == 0) & solution.isfinite().all()
        for parameter, found in ((self.output.weight, solution[:-1].T), (self.output.bias, solution[-1])):
            parameter.copy_(torch.where(solved, found, parameter))
