"""MNIST with a residual network: a raw residual stream at every cut, unlike the paper's networks."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from typing_extensions import override

from dni_async.checks import at_least
from tasks.vision.mnist import Mnist


class MnistResidual(Mnist):
    """MNIST with a fully connected residual network."""

    name = "mnist-residual"
    input_shape = (784,)

    def __init__(self, depth: int = 16, width: int = 128, subset: int = 0, validation: int = 0) -> None:
        """Depth: residual blocks; width: units of the residual stream; subset: first training images to use,
        0 for all; validation: last training images to hold out for --patience."""
        super().__init__(subset, validation)
        self.depth, self.width = at_least(1, depth=depth), at_least(1, width=width)

    @override
    def layers(self) -> list[nn.Module]:
        return residual(self.depth, self.width)


class ResidualBlock(nn.Module):
    """h + W2 relu(BN(W1 h)) for h (B, D), with W2 scaled by `scale` at the start."""

    def __init__(self, width: int, scale: float) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Linear(width, width, bias=False),
            nn.BatchNorm1d(width),
            nn.ReLU(),
            output := nn.Linear(width, width),
        )
        with torch.no_grad():
            output.weight.mul_(scale)
            output.bias.zero_()

    @override
    def forward(self, h: Tensor) -> Tensor:
        return h + self.branch(h)


def residual(depth: int, width: int) -> list[nn.Module]:
    """Linear(784, D), `depth` residual blocks, then BatchNorm and Linear to 10: depth + 2 layers.

    The branches start scaled by 1 / sqrt(depth) (0.25 for 16 blocks), so that the variance of the residual
    stream does not grow with the depth.
    """
    blocks = [ResidualBlock(width, depth**-0.5) for _ in range(depth)]
    return [nn.Linear(784, width), *blocks, nn.Sequential(nn.BatchNorm1d(width), nn.Linear(width, 10))]
