"""The layers of a decoder-only transformer: pre-norm blocks with causal attention.

tokens (B, T) ─► TokenEmbedding ─► TransformerBlock ─► ... ─► LayerNorm, Linear ─► logits (B, T, V)
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from tasks.text.rotary import RotaryEmbedding, check_context


class TokenEmbedding(nn.Module):
    """Maps symbols (B, T) to (B, T, D), with learned positions unless `positions` is False."""

    def __init__(self, symbols: int, width: int, context: int, *, positions: bool = True) -> None:
        super().__init__()
        self.context = context
        self.symbols = nn.Embedding(symbols, width)
        self.positions = nn.Embedding(context, width) if positions else None
        for embedding in (self.symbols, self.positions):
            if embedding is not None:
                nn.init.normal_(embedding.weight, std=0.1)

    @override
    def forward(self, x: Tensor) -> Tensor:
        check_context(x.shape[1], self.context)
        h: Tensor = self.symbols(x)
        return h if self.positions is None else h + self.positions.weight[: x.shape[1]]


class CausalSelfAttention(nn.Module):
    """Multi-head attention of each position to itself and to those before it, for h (B, T, D).

    rotary: turns queries and keys by their positions; None where the embedding has positions.
    """

    def __init__(self, width: int, heads: int, rotary: RotaryEmbedding | None = None) -> None:
        super().__init__()
        self.heads, self.rotary = heads, rotary
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)

    @override
    def forward(self, h: Tensor) -> Tensor:
        batch, steps, width = h.shape
        split = self.queries_keys_values(h).view(batch, steps, 3, self.heads, width // self.heads)
        q, k, v = split.permute(2, 0, 3, 1, 4)  # each (B, heads, T, D / heads)
        if self.rotary is not None:
            q, k = self.rotary(q), self.rotary(k)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.output(mixed.transpose(1, 2).reshape(batch, steps, width))


class TransformerBlock(nn.Module):
    """h + attention(LayerNorm(h)), then h + MLP(LayerNorm(h)) with a hidden layer of 4 D, for h (B, T, D).

    Args:
        scale: factor of the initial weights of both output layers, so that the variance of the residual
            stream does not grow with the depth.
    """

    def __init__(
        self, width: int, heads: int, *, scale: float = 1.0, rotary: RotaryEmbedding | None = None
    ) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = CausalSelfAttention(width, heads, rotary)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), output := nn.Linear(4 * width, width)
        )
        with torch.no_grad():
            for layer in (self.attention.output, output):
                layer.weight.mul_(scale)
                layer.bias.zero_()

    @override
    def forward(self, h: Tensor) -> Tensor:
        h = h + self.attention(self.attention_norm(h))
        return h + self.mlp(self.mlp_norm(h))


def decoder(
    symbols: int, *, depth: int, width: int, heads: int, context: int, rope: bool = False
) -> list[nn.Module]:
    """Return embedding, `depth` blocks, and norm and output layer: depth + 2 layers."""
    blocks = [
        TransformerBlock(
            width,
            heads,
            scale=(2 * depth) ** -0.5,
            rotary=RotaryEmbedding(width // heads, context) if rope else None,
        )
        for _ in range(depth)
    ]
    head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, symbols))
    return [TokenEmbedding(symbols, width, context, positions=not rope), *blocks, head]
