"""Text from a GPT, symbol by symbol, with the keys and values of earlier positions kept.

new symbol    a     b     c      d       e
window        a     ab    abc    abcd    de      context 4: the last half again, from position 0
computed      a     b     c      d       de
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tasks.transformer import TokenEmbedding, TransformerBlock


class CachedDecoder:
    """The layers of `tasks.transformer.decoder` as `TextGenerator.next_logits`.

    It sees all symbols until they exceed the context. Then it goes on from the last context / 2 of them, as
    if the text began there, so that one symbol in context / 2 costs more than one position.

    Args:
        layers: embedding, blocks, and output layer.
    """

    def __init__(self, layers: nn.Sequential, context: int) -> None:
        embedding, *blocks, self.output = layers
        assert isinstance(embedding, TokenEmbedding)
        self.embedding, self.context = embedding, context
        self.blocks = [block for block in blocks if isinstance(block, TransformerBlock)]
        self.seen = torch.empty(1, 0, dtype=torch.long)
        """(1, T) symbols in the window, whose keys and values are kept."""
        self.kept: list[tuple[Tensor, Tensor]] = []
        """Keys and values of each block, (1, heads, T, D / heads)."""

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        """Return (V,) logits of the symbol that follows all symbols so far, of which x (1, T) are new."""
        first = self.seen.shape[1]
        self.seen = torch.cat([self.seen, x], 1)
        if self.seen.shape[1] > self.context:
            self.seen, first = self.seen[:, -max(1, self.context // 2) :], 0
        h = self.embedding(self.seen[:, first:], first)
        earlier = self.kept if first else [None] * len(self.blocks)
        self.kept = []
        for block, known in zip(self.blocks, earlier, strict=True):
            h = self._block(block, h, first, known)
        logits: Tensor = self.output(h[:, -1:])[0, -1]
        return logits

    def _block(
        self, block: TransformerBlock, h: Tensor, first: int, known: tuple[Tensor, Tensor] | None
    ) -> Tensor:
        """Return the output of a block for its new positions h (1, T, D), which begin at `first`."""
        q, k, v = block.attention.split(block.attention_norm(h), first)
        if known is not None:
            k, v = torch.cat([known[0], k], 2), torch.cat([known[1], v], 2)
        self.kept.append((k, v))
        sees = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).tril(first)
        h = h + block.attention.merge(F.scaled_dot_product_attention(q, k, v, attn_mask=sees))
        return h + block.mlp(block.mlp_norm(h))
