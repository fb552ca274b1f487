"""How layers are run: in fp32, or in bf16 where that is safe.

    fp32   layers                 -> loss                   nothing changes, bit for bit
    bf16   layers under autocast  -> loss under autocast    weights, gradients and optimizer stay fp32

What leaves a part of the network is what its last layer gives, so that with bf16 most activations and
target gradients travel in half the bytes. SG networks work in fp32 on what they are given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

PRECISIONS = ("fp32", "bf16")

F = TypeVar("F", bound=Callable[..., object])


def sequential(layers: Iterable[nn.Module], precision: str) -> nn.Sequential:
    """The layers as one module that works in `precision`; names of weights are those of nn.Sequential."""
    return (_Bf16 if precision == "bf16" else nn.Sequential)(*layers)


def in_precision(function: F, precision: str, device: torch.device) -> F:
    """A function, such as a loss, that works in `precision` on tensors of `device`."""
    if precision == "fp32":
        return function
    return cast(F, torch.autocast(device.type, torch.bfloat16)(function))


class _Bf16(nn.Sequential):
    """Mixed precision as users have it. A class of its own, so that copies and slices keep it."""

    def forward(self, input: Tensor) -> Tensor:
        """The output, of the type that autocast gives it."""
        with torch.autocast(input.device.type, torch.bfloat16):
            output: Tensor = super().forward(input)
            return output
