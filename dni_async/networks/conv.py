"""The convolutional SG network (paper, appendix: 5x5 convolutions, BN, ReLU, and one convolution)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Self, override

from dni_async.checks import at_least
from dni_async.errors import UserError
from dni_async.networks.base import DNINetwork, NetworkSettings, misfit, required, zero_output
from dni_async.networks.norm import BatchNorm

Size = int | tuple[int, int]
"""One number, or one for the height and one for the width."""


class ConvSG(DNINetwork):
    """`layers` times Conv, BN, ReLU over h and label planes, then a convolution that starts at zero.

    h: (B, C, H, W) of any height and width; labels (B, L) become L constant planes, or are absent. The
    gradient has the height and width of h, whatever the kernel:

        padding "SAME"   every convolution keeps the size
        padding p        every convolution adds p zeros on each side. What all of them together lack is
                         added around h once, and what they have too much is cropped off the gradient

    bias: of the output convolution (BN has one).
    """

    feature_dim = 1
    default_layers = 2

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        output_size: int,
        label_size: int = 0,
        layers: int = 2,
        kernel_size: Size = 5,
        padding: Size | str = "SAME",
        dilation: Size = 1,
        bias: bool = True,
    ) -> None:
        at_least(1, input_size=input_size, hidden_size=hidden_size, output_size=output_size)
        at_least(0, layers=layers, label_size=label_size)
        super().__init__(input_size, hidden_size, output_size)
        kernel_size, dilation = pair("kernel_size", kernel_size, 1), pair("dilation", dilation, 1)
        same = isinstance(padding, str) and padding.upper() == "SAME"
        given = (0, 0) if same else pair("padding", padding, 0, ", or 'SAME'")
        spans = [d * (k - 1) for k, d in zip(kernel_size, dilation, strict=True)]
        lacking = [0 if same else (layers + 1) * (span - 2 * p) for span, p in zip(spans, given, strict=True)]
        self.missing = [max(0, lack) for lack in lacking]
        self.surplus = [max(0, -lack) for lack in lacking]

        def convolution(channels: int, filters: int, bias: bool) -> nn.Conv2d:
            if same:
                return SameConv2d(channels, filters, kernel_size, dilation, bias)
            return nn.Conv2d(channels, filters, kernel_size, padding=given, dilation=dilation, bias=bias)

        blocks: list[nn.Module] = []
        channels = input_size + label_size
        for _ in range(layers):
            blocks += [convolution(channels, hidden_size, False), BatchNorm(hidden_size), nn.ReLU()]
            channels = hidden_size
        self.label_size = label_size
        self.body = nn.Sequential(*blocks)
        self.output = convolution(channels, output_size, bias)
        zero_output(self.output)

    @classmethod
    @override
    def build(cls, shape: tuple[int, ...], label_size: int, settings: NetworkSettings) -> Self:
        return cls(shape[0], settings.hidden, shape[0], label_size, settings.layers)

    @override
    def forward(self, input: Tensor, hidden: Any = None, labels: Tensor | None = None) -> tuple[Tensor, Any]:
        if input.ndim != 4:
            kind = type(self).__name__
            raise UserError(
                f"{kind} predicts for (B, C, H, W), not for {tuple(input.shape)}; use a linear one"
            )
        if self.label_size:
            labels = required(labels, self.label_size)
            if labels.ndim != 2:
                raise misfit(labels, input)
            planes = labels[:, :, None, None].expand(-1, -1, *input.shape[2:])
            input = torch.cat([input, planes], 1)
        gradient = self.output(self.body(framed(input, *self.missing)))
        return framed(gradient, *(-cut for cut in self.surplus)), None


class SameConv2d(nn.Conv2d):
    """A convolution whose output has the height and width of its input, also with an even kernel.

    An odd row of padding goes to the bottom, and an odd column to the right, as with padding="same" of torch,
    which warns about even kernels.
    """

    def __init__(
        self, channels: int, filters: int, kernel_size: tuple[int, int], dilation: tuple[int, int], bias: bool
    ) -> None:
        spans = [d * (k - 1) for k, d in zip(kernel_size, dilation, strict=True)]
        half = (spans[0] // 2, spans[1] // 2)
        super().__init__(channels, filters, kernel_size, padding=half, dilation=dilation, bias=bias)
        self.odd = [span % 2 for span in spans]

    @override
    def forward(self, input: Tensor) -> Tensor:
        if any(self.odd):
            input = F.pad(input, (0, self.odd[1], 0, self.odd[0]))
        return super().forward(input)


def framed(image: Tensor, rows: int, columns: int) -> Tensor:
    """The image (B, C, H, W) with so many rows and columns of zeros around it; cut off when negative."""
    if not rows and not columns:
        return image
    left, top = columns // 2, rows // 2
    return F.pad(image, (left, columns - left, top, rows - top))


def pair(name: str, value: Any, low: int, alternative: str = "") -> tuple[int, int]:
    """(height, width) of a number or two. Raises UserError unless they are whole and at least `low`."""
    both = tuple(value) if isinstance(value, tuple | list) else (value, value)
    whole = all(isinstance(number, int) and not isinstance(number, bool) for number in both)
    if len(both) != 2 or not whole or min(both) < low:
        raise UserError(
            f"{name} is {value!r}; give a whole number of at least {low}, or two of them{alternative}"
        )
    return both[0], both[1]
