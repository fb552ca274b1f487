"""The SG network with hidden layers (the paper's FCN SG: two hidden layers of 1024, BN, ReLU)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dni_async.networks.base import DNINetwork, along, zero_output


class MlpSG(DNINetwork):
    """`layers` times Linear, LayerNorm, ReLU over [h ; y], then a linear output that starts at zero.

    h: (B, D) or (B, T, D); y: (B, C) or absent. LayerNorm instead of the paper's BN, so that one
    sample or one time step predicts the same whatever else is in the batch.
    """

    def __init__(
        self, input_size: int, hidden_size: int, output_size: int, label_size: int = 0, layers: int = 1
    ) -> None:
        super().__init__(input_size, hidden_size, output_size)
        blocks: list[nn.Module] = []
        width = input_size + label_size
        for _ in range(layers):
            blocks += [nn.Linear(width, hidden_size), nn.LayerNorm(hidden_size), nn.ReLU()]
            width = hidden_size
        self.label_size = label_size
        self.body = nn.Sequential(*blocks)
        self.output = nn.Linear(width, output_size)
        zero_output(self.output)

    def forward(
        self, input: Tensor, hidden: Tensor | None = None, labels: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """(gradient like `input`, None)."""
        if self.label_size:
            assert labels is not None, "this SG network was built to be conditional"
            input = torch.cat([input, along(labels, input)], -1)
        return self.output(self.body(input)), None
