"""The SG networks of pytorch-dni without hidden state, with their names and arguments.

As there, `hidden_size` is multiplied by four inside: 256 makes the paper's 1024 units.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from dni_async.checks import at_least
from dni_async.errors import UserError
from dni_async.networks.conv import ConvSG, Size
from dni_async.networks.mlp import MlpSG, Norm

WIDEN = 4
"""Hidden units per unit of `hidden_size`."""


class LinearDNI(MlpSG):
    """`num_layers` times Linear, ReLU over [h ; y], then a linear output; h: (B, ..., D), y: (B, C).

    With num_layers=0 it is the linear SG network.
    """

    norm: Norm = "none"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        output_size: int,
        num_layers: int = 2,
        bias: bool = True,
        label_size: int = 0,
    ) -> None:
        at_least(1, hidden_size=hidden_size)
        at_least(0, num_layers=num_layers)
        width = WIDEN * hidden_size
        super().__init__(input_size, width, output_size, label_size, num_layers, self.norm, bias)


class LinearBatchNormDNI(LinearDNI):
    """The same with Linear, BatchNorm, ReLU; the batch norm takes every row along D as a sample."""

    norm = "batch"


class LinearSigmoidDNI(LinearDNI):
    """A `LinearDNI` z under a sigmoid: g = a * (2 sigmoid(z) - 1), with a learned amplitude a per feature.

    The gradient of a log loss at its logits is a sigmoid less the label (Czarnecki et al. 2017,
    arXiv 1703.00522). A bare sigmoid, as in pytorch-dni, is never negative; this one is zero untrained.
    """

    def __init__(
        self, input_size: int, hidden_size: int, output_size: int, *args: Any, **settings: Any
    ) -> None:
        super().__init__(input_size, hidden_size, output_size, *args, **settings)
        self.amplitude = nn.Parameter(torch.ones(output_size))

    @override
    def forward(self, input: Tensor, hidden: Any = None, labels: Tensor | None = None) -> tuple[Tensor, Any]:
        z, hidden = super().forward(input, hidden, labels)
        return self.amplitude * (2 * z.sigmoid() - 1), hidden


class Conv2dDNI(ConvSG):
    """`num_layers` times Conv, BatchNorm, ReLU over h and label planes, then a convolution.

    h: (B, C, H, W), with C = input_size = output_size; the gradient has its height and width, so there
    is no pooling here, and stride is 1. convolutions: filters of each hidden layer (`hidden_size` is for
    the other networks). padding: see `ConvSG`.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        output_size: int,
        convolutions: int = 16,
        kernel_size: Size = 2,
        stride: int = 1,
        padding: Size | str = 0,
        dilation: Size = 1,
        num_layers: int = 2,
        bias: bool = True,
        label_size: int = 0,
    ) -> None:
        at_least(1, convolutions=convolutions)
        at_least(0, num_layers=num_layers)
        if stride not in (1, (1, 1)):
            raise UserError(f"stride is {stride}; a gradient is as large as its activation, use stride=1")
        super().__init__(
            input_size,
            convolutions,
            output_size,
            label_size,
            num_layers,
            kernel_size=kernel_size,
            padding=padding,
            dilation=dilation,
            bias=bias,
        )
