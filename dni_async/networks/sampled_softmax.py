"""Cross-entropy over a sample of the classes, for vocabularies that cost too much as a whole."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override


class SampledSoftmax(nn.Module):
    """An estimate of the cross-entropy over the V classes of an output layer, from a part of its logits.

    The logits are those of the classes among the labels, and of `negatives` classes drawn uniformly, with
    replacement. One that is drawn and not among the labels counts V / negatives times, so that the sum under
    the logarithm is right in the mean (Bengio and Senecal 2003).

    Its state is that of its random numbers: a resumed run draws the same classes.
    """

    def __init__(self, negatives: int) -> None:
        super().__init__()
        self.negatives = negatives
        self.generator = torch.Generator().manual_seed(torch.initial_seed())

    @override
    def forward(self, features: Tensor, output: nn.Linear, labels: Tensor) -> Tensor:
        """Return the sum of the cross-entropies, a scalar.

        Args:
            features: (N, D), the input of the output layer.
            output: from D to V.
            labels: (N,) class indices, -1 for one that does not count.
        """
        classes = output.out_features
        counted = labels >= 0
        present = labels[counted].unique()  # in order
        place = torch.searchsorted(present, labels).masked_fill(~counted, -1)
        drawn = torch.randint(classes, (self.negatives,), generator=self.generator).to(labels.device)
        counts = features.new_full((self.negatives,), math.log(classes / self.negatives))
        counts = counts.masked_fill(torch.isin(drawn, present), float("-inf"))
        chosen = torch.cat([present, drawn])
        shifts = output.bias[chosen] + F.pad(counts, (len(present), 0))
        logits = torch.addmm(shifts, features, output.weight[chosen].t())
        return F.cross_entropy(logits, place, ignore_index=-1, reduction="sum")

    @override
    def get_extra_state(self) -> Tensor:
        return self.generator.get_state()

    @override
    def set_extra_state(self, state: Tensor) -> None:
        self.generator.set_state(state.cpu())
