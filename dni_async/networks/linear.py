"""The linear SG network: cheap, and the best for conditional DNI (FACTS: "cDNI: linear is best")."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dni_async.networks.base import DNINetwork, along, zero_output


class LinearSG(DNINetwork):
    """g = W h + E y + b, with W of full rank, or W = U V of a given rank for wide layers.

    h: (B, D), or (B, T, D) with one prediction per time step. y: (B, C) or absent.
    Cost: predict and learn are 3 products of (B, D) x (D, D); with rank r, 5 of (B, D) x (D, r).
    """

    def __init__(self, input_size: int, output_size: int, label_size: int = 0, rank: int = 0) -> None:
        super().__init__(input_size, rank, output_size)
        self.squeeze = nn.Linear(input_size, rank, bias=False) if rank else None
        self.output = nn.Linear(rank or input_size, output_size)
        zero_output(self.output)
        self.labels = nn.Linear(label_size, output_size, bias=False) if label_size else None
        if self.labels is not None:
            zero_output(self.labels)

    def forward(
        self, input: Tensor, hidden: Tensor | None = None, labels: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """(gradient like `input`, None)."""
        squeezed = input if self.squeeze is None else self.squeeze(input)
        gradient = self.output(squeezed)
        if self.labels is not None:
            assert labels is not None, "this SG network was built to be conditional"
            gradient = gradient + self.labels(along(labels, input))
        return gradient, None

    @torch.no_grad()
    def regress(self, h: Tensor, labels: Tensor | None, target: Tensor) -> Tensor:
        """As the base class, with the derivative written out: autograd would cost half as much again.

        With e = 2 (prediction - target) / numel:  dW = e' h,  dE = e' y,  db = sum e,
        and for W = U V:  dU = e' (h V'),  dV = (e U)' h.
        """
        squeezed = h if self.squeeze is None else F.linear(h, self.squeeze.weight)
        prediction = self.output(squeezed)
        if self.labels is not None:
            assert labels is not None, "this SG network was built to be conditional"
            prediction += self.labels(along(labels, h))
        error = (prediction - target).mul_(2 / target.numel()).flatten(0, -2)
        self.output.weight.grad = error.T @ squeezed.flatten(0, -2)
        self.output.bias.grad = error.sum(0)
        if self.squeeze is not None:
            self.squeeze.weight.grad = (error @ self.output.weight).T @ h.flatten(0, -2)
        if self.labels is not None and labels is not None:
            self.labels.weight.grad = error.T @ along(labels, h).flatten(0, -2)
        return prediction
