"""Batch normalisation for SG networks."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override


class BatchNorm(nn.Module):
    """Normalises x (N, C, ...) by the statistics of the batch, also in eval mode: it keeps no running means.

    With one value per channel (a last batch of one sample) the result is the bias, as in a larger batch of
    equal samples; `nn.BatchNorm1d` refuses such a batch.
    """

    eps = 1e-5

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return x (N, C, ...) with mean `bias` and deviation `weight` per channel."""
        if x.numel() == x.shape[1]:
            return (x - x) * self.weight.view_as(x) + self.bias.view_as(x)
        return F.batch_norm(x, None, None, self.weight, self.bias, training=True, eps=self.eps)


class FeatureBatchNorm(BatchNorm):
    """The same for x (..., C), where every row along C is a sample."""

    @override
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.reshape(-1, x.shape[-1])).view_as(x)
