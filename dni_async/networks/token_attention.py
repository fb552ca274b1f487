"""The token head behind a small causal attention, for gradients that depend on other positions."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from typing_extensions import override

from dni_async.errors import UserError
from dni_async.networks.head import TokenHeadSG


class CausalAttention(nn.Module):
    """h + W attention(LayerNorm(h)) for h (B, T, D).

    The softmax is written out, because the head's loss is differentiated twice and the fused kernels of
    `F.scaled_dot_product_attention` are not.
    """

    heads = 2

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.queries_keys_values = nn.Linear(width, 3 * inner)
        self.output = nn.Linear(inner, width)

    @override
    def forward(self, h: Tensor) -> Tensor:
        batch, steps, _ = h.shape
        inner = self.output.in_features
        split = self.queries_keys_values(self.norm(h)).view(batch, steps, 3, self.heads, inner // self.heads)
        q, k, v = split.permute(2, 0, 3, 1, 4)  # each (B, heads, T, inner / heads)
        later = torch.ones(steps, steps, dtype=torch.bool, device=h.device).triu(1)
        products = (q @ k.transpose(-1, -2)) * (inner // self.heads) ** -0.5
        mixed = products.masked_fill(later, float("-inf")).softmax(-1) @ v
        return h + self.output(mixed.transpose(1, 2).reshape(batch, steps, inner))


class TokenAttentionSG(TokenHeadSG):
    """The structured SG network for activations (B, T, D) of causal layers:

        h -> h + causal attention of width `hidden_size` -> LayerNorm(D) -> Linear(D -> classes)

    A prediction at one position depends on the labels of later ones, as the gradient in a transformer does.
    The head learns by its cross-entropy alone, and targets only measure it: matching them from the start, or
    starting with an output layer of the attention at zero, keeps it from learning (task induction, two
    stages, medians in bits per symbol: 0.74 as it is, 1.64 with targets, 1.46 from zero, token-head 2.47,
    backprop 0.70; docs/LOG.md).
    """

    learned_share = 0.0

    def __init__(
        self, width: int, classes: int, hidden_size: int = 16, rank: int = 0, negatives: int = 0
    ) -> None:
        if hidden_size % CausalAttention.heads:
            raise UserError(f"sg.hidden is {hidden_size}; token-attention needs an even width")
        super().__init__(width, classes, 0, rank, negatives)
        self.hidden_size = hidden_size
        self.head.insert(0, CausalAttention(width, hidden_size))

    @classmethod
    @override
    def default_hidden(cls, shape: tuple[int, ...]) -> int:  # type: ignore[override]
        """Return the width of the attention, 16."""
        return 16
