"""Batch normalisation as SG networks use it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class BatchNorm(nn.Module):
    """Normalises x (N, C, ...) by the statistics of this very batch, in eval mode too: it keeps no others.

    One value per channel (a last batch of one sample) is its own mean, so it becomes 0, as in a larger
    batch of equal samples; `nn.BatchNorm1d` would refuse it.
    """

    eps = 1e-5

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Like x, of mean `bias` and deviation `weight` per channel."""
        if x.numel() == x.shape[1]:
            return (x - x) * self.weight.view_as(x) + self.bias.view_as(x)
        return F.batch_norm(x, None, None, self.weight, self.bias, training=True, eps=self.eps)


class FeatureBatchNorm(BatchNorm):
    """The same over the last dimension of x (..., C): every row of it is a sample."""

    def forward(self, x: Tensor) -> Tensor:
        """Like x, of mean `bias` and deviation `weight` per feature."""
        return super().forward(x.reshape(-1, x.shape[-1])).view_as(x)
