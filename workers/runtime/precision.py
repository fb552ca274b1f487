"""The precision in which layers and loss are computed.

    fp32   layers                 -> loss                   nothing changes, bit for bit
    bf16   layers under autocast  -> loss under autocast    weights, gradients and optimizer stay fp32
    fp16   layers under autocast  -> loss in fp32           as bf16; the gradients inside layers are scaled

A stage sends its last layer's output as it is, so with bf16 most activations and target gradients are half as
large. With fp16 it sends fp32, in which no gradient vanishes. SG networks compute in fp32, whatever the type
of their input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar, cast

import torch
from torch import nn
from typing_extensions import override

from dni_async.trees import first_tensor, map_tensors

PRECISIONS = ("fp32", "bf16", "fp16")

F = TypeVar("F", bound=Callable[..., object])


def sequential(layers: Iterable[nn.Module], precision: str) -> nn.Sequential:
    """One module of the layers that computes in `precision`; weights have the names of nn.Sequential."""
    return _KINDS[precision](*layers)


def in_precision(function: F, precision: str, device: torch.device) -> F:
    """The function, such as a loss, computed in `precision` on tensors of `device`; with fp16 in fp32."""
    if precision != "bf16":
        return function
    return cast(F, torch.autocast(device.type, torch.bfloat16)(function))


def head_precision(precision: str) -> str:
    """The precision of auxiliary heads beside layers in `precision`: a head's gradients are not scaled."""
    return "fp32" if precision == "fp16" else precision


class _Layers(nn.Sequential):
    """nn.Sequential with a `forward` of its own: `compile()` does nothing for torch's own containers."""

    @override
    def forward(self, input: Any) -> Any:
        return super().forward(input)

    def _get_name(self) -> str:
        return nn.Sequential.__name__


class _Bf16(_Layers):
    """Layers under autocast. A class rather than a hook, so that copies and slices keep it."""

    @override
    def forward(self, input: Any) -> Any:
        with torch.autocast(first_tensor(input).device.type, torch.bfloat16):
            return super().forward(input)


class _Fp16(_Layers):
    """Layers under autocast, whose output is in fp32."""

    @override
    def forward(self, input: Any) -> Any:
        with torch.autocast(first_tensor(input).device.type, torch.float16):
            output = super().forward(input)
        return map_tensors(lambda tensor: tensor.float() if tensor.dtype is torch.float16 else tensor, output)


_KINDS = {"fp32": _Layers, "bf16": _Bf16, "fp16": _Fp16}
