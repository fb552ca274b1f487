"""Rotary position embedding (RoPE; Su et al. 2021, arXiv 2104.09864)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from typing_extensions import override

from dni_async.errors import UserError


class RotaryEmbedding(nn.Module):
    """Turns x (B, heads, T, D) by its positions: the product of two rows depends on their distance alone.

    The pair of features i and i + D/2 at position p is turned by the angle p * 10000^(-2i / D).
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, width: int, context: int) -> None:
        super().__init__()
        assert width % 2 == 0, width
        speeds = 10_000.0 ** (-torch.arange(0, width, 2) / width)
        angles = torch.arange(context)[:, None] * speeds
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    @override
    def forward(self, x: Tensor, first: int = 0) -> Tensor:
        """Return x turned; its positions begin at `first`."""
        end = first + x.shape[-2]
        check_context(end, len(self.cos))
        cos, sin = self.cos[first:end].to(x.dtype), self.sin[first:end].to(x.dtype)
        a, b = x.chunk(2, dim=-1)
        return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


def check_context(steps: int, context: int) -> None:
    """Raise UserError for more positions than the context of the model."""
    if steps > context:
        raise UserError(
            f"a sequence of {steps} positions exceeds the context of the model (context={context}); "
            "shorten the sequences, or train with a larger context"
        )
