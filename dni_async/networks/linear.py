"""The linear SG network: the cheapest one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Self, override

from dni_async.networks.base import DNINetwork, NetworkSettings, along, required, zero_output


class LinearSG(DNINetwork):
    """g = W [h ; y] + b, with W of full rank, or g = W [V h ; y] + b of a given rank for wide layers.

    h: (B, ..., D), one prediction per row. y: (B, C), repeated for all rows of a sample, or absent.
    Cost: predict and learn are 3 products of (B, D) x (D, D); with rank r, 7 of (B, D) x (D, r).
    """

    uses_rank = True

    def __init__(self, input_size: int, output_size: int, label_size: int = 0, rank: int = 0) -> None:
        super().__init__(input_size, rank, output_size)
        self.label_size = label_size
        self.squeeze = nn.Linear(input_size, rank, bias=False) if rank else None
        self.output = nn.Linear((rank or input_size) + label_size, output_size)
        zero_output(self.output)

    @classmethod
    @override
    def build(cls, shape: tuple[int, ...], label_size: int, settings: NetworkSettings) -> Self:
        return cls(shape[-1], shape[-1], label_size, settings.rank)

    @override
    def forward(self, input: Tensor, hidden: Any = None, labels: Tensor | None = None) -> tuple[Tensor, Any]:
        return self.output(self._features(input, labels)), None

    def _features(self, h: Tensor, labels: Tensor | None) -> Tensor:
        """Return [h ; y] or [V h ; y]: one product with W is cheaper than one with each part of it."""
        squeezed = h if self.squeeze is None else self.squeeze(h)
        if not self.label_size:
            return squeezed
        labels = along(required(labels, self.label_size), h)
        return torch.cat([squeezed, labels.to(h.dtype)], -1)

    @torch.no_grad()
    def regress(self, h: Tensor, labels: Tensor | None, target: Tensor) -> Tensor:
        """As in the base class, with the derivative written out: autograd would take 1.5 times as long.

        With f = [V h ; y] and e = 2 (prediction - target) / numel:
        dW = e' f,  db = sum e,  dV = (e W)' h  for the columns of W that are multiplied by V h.

        The products include the factor 2 / numel, which saves one pass over e.
        """
        features = self._features(h, labels)
        prediction = self.output(features)
        error = (prediction - target).flatten(0, -2)
        factor = 2 / target.numel()
        weight, bias = self.output.weight, self.output.bias
        weight.grad = torch.addmm(weight, error.T, features.flatten(0, -2), beta=0, alpha=factor)
        bias.grad = error.sum(0).mul_(factor)
        if self.squeeze is not None:
            back = error @ weight[:, : self.hidden_size]
            squeeze = self.squeeze.weight
            squeeze.grad = torch.addmm(squeeze, back.T, h.flatten(0, -2), beta=0, alpha=factor)
        return prediction
