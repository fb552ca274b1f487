"""The convolutional SG network (paper, appendix: 5x5 convolutions, BN, ReLU, and one convolution)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dni_async.networks.base import DNINetwork, zero_output


class ConvSG(DNINetwork):
    """`layers` times Conv, BN, ReLU over h and label planes, then a convolution that starts at zero.

    h: (B, C, H, W) of any height and width; labels (B, L) become L constant planes, or are absent.
    BN always uses the batch's statistics.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        output_size: int,
        label_size: int = 0,
        layers: int = 2,
        kernel_size: int = 5,
    ) -> None:
        super().__init__(input_size, hidden_size, output_size)
        blocks: list[nn.Module] = []
        channels = input_size + label_size
        for _ in range(layers):
            blocks += [
                nn.Conv2d(channels, hidden_size, kernel_size, padding="same", bias=False),
                nn.BatchNorm2d(hidden_size, track_running_stats=False),
                nn.ReLU(),
            ]
            channels = hidden_size
        self.label_size = label_size
        self.body = nn.Sequential(*blocks)
        self.output = nn.Conv2d(channels, output_size, kernel_size, padding="same")
        zero_output(self.output)

    def forward(
        self, input: Tensor, hidden: Tensor | None = None, labels: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """(gradient like `input`, None)."""
        if self.label_size:
            assert labels is not None, "this SG network was built to be conditional"
            planes = labels[:, :, None, None].expand(-1, -1, *input.shape[2:])
            input = torch.cat([input, planes], 1)
        return self.output(self.body(input)), None
