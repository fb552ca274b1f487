"""The SG network with hidden layers (the paper's FCN SG: two hidden layers of 1024, BN, ReLU)."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from typing_extensions import Self, override

from dni_async.checks import at_least
from dni_async.networks.base import DNINetwork, NetworkSettings, along, required, zero_output
from dni_async.networks.norm import FeatureBatchNorm

Norm = Literal["layer", "batch", "none"]
"""The norm between a hidden layer and its ReLU."""


class MlpSG(DNINetwork):
    """`layers` times Linear, norm, ReLU over [h ; y], then a linear output that starts at zero.

    h: (B, ..., D); y: (B, C), repeated for all rows of a sample, or absent.

    norm: LayerNorm ("layer") makes the prediction for a sample or a time step independent of the rest of the
    batch; the paper has BN ("batch").
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        output_size: int,
        label_size: int = 0,
        layers: int = 1,
        norm: Norm = "layer",
        bias: bool = True,
    ) -> None:
        at_least(1, input_size=input_size, hidden_size=hidden_size, output_size=output_size)
        at_least(0, layers=layers, label_size=label_size)
        super().__init__(input_size, hidden_size, output_size)
        blocks: list[nn.Module] = []
        width = input_size + label_size
        for _ in range(layers):
            blocks.append(nn.Linear(width, hidden_size, bias and norm != "batch"))  # BN has a bias
            if norm != "none":
                blocks.append({"layer": nn.LayerNorm, "batch": FeatureBatchNorm}[norm](hidden_size))
            blocks.append(nn.ReLU())
            width = hidden_size
        self.label_size = label_size
        self.body = nn.Sequential(*blocks)
        self.output = nn.Linear(width, output_size, bias)
        zero_output(self.output)

    @classmethod
    @override
    def build(cls, shape: tuple[int, ...], label_size: int, settings: NetworkSettings) -> Self:
        return cls(shape[-1], settings.hidden, shape[-1], label_size, settings.layers)

    @override
    def forward(self, input: Tensor, hidden: Any = None, labels: Tensor | None = None) -> tuple[Tensor, Any]:
        if self.label_size:
            input = torch.cat([input, along(required(labels, self.label_size), input)], -1)
        return self.output(self.body(input)), None
