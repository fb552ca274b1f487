"""The layers of transformers: pre-norm blocks, and what comes before and behind them in a decoder.

tokens (B, T) ─► TokenEmbedding ─► TransformerBlock ─► ... ─► LayerNorm, Linear ─► logits (B, T, V)
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from dni_async.errors import UserError
from tasks.rotary import RotaryEmbedding, check_context


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
    def forward(self, x: Tensor, first: int = 0) -> Tensor:
        """Return the embedding of symbols whose positions begin at `first`."""
        end = first + x.shape[1]
        check_context(end, self.context)
        h: Tensor = self.symbols(x)
        return h if self.positions is None else h + self.positions.weight[first:end]


class SelfAttention(nn.Module):
    """Multi-head attention for h (B, T, D).

    Args:
        rotary: turns queries and keys by their positions; None where the embedding has positions.
        causal: whether a position sees itself and those before it alone.
    """

    def __init__(
        self, width: int, heads: int, rotary: RotaryEmbedding | None = None, *, causal: bool = True
    ) -> None:
        super().__init__()
        self.heads, self.rotary, self.causal = heads, rotary, causal
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)

    @override
    def forward(self, h: Tensor) -> Tensor:
        q, k, v = self.split(h)
        return self.merge(F.scaled_dot_product_attention(q, k, v, is_causal=self.causal))

    def split(self, h: Tensor, first: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values, each (B, heads, T, D / heads), of positions from `first` on."""
        batch, steps, width = h.shape
        split = self.queries_keys_values(h).view(batch, steps, 3, self.heads, width // self.heads)
        q, k, v = split.permute(2, 0, 3, 1, 4)
        return (q, k, v) if self.rotary is None else (self.rotary(q, first), self.rotary(k, first), v)

    def merge(self, mixed: Tensor) -> Tensor:
        """Return the output (B, T, D) for the values as they were mixed, (B, heads, T, D / heads)."""
        merged: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return merged


class TransformerBlock(nn.Module):
    """h + attention(LayerNorm(h)), then h + MLP(LayerNorm(h)) with a hidden layer of 4 D, for h (B, T, D).

    Args:
        scale: factor of the initial weights of both output layers, so that the variance of the residual
            stream does not grow with the depth.
        rotary, causal: see `SelfAttention`.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        scale: float = 1.0,
        rotary: RotaryEmbedding | None = None,
        causal: bool = True,
    ) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = SelfAttention(width, heads, rotary, causal=causal)
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


def check_heads(width: int, heads: int, rope: bool = False) -> None:
    """Raise UserError unless the heads divide the width, with RoPE into parts of an even width."""
    if width % heads or (rope and width // heads % 2):
        even = " of an even width" if rope else ""
        raise UserError(f"width={width} cannot be divided into heads={heads}{even}; change one of them")
