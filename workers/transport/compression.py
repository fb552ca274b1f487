"""Fewer bytes on a link: activations and target gradients as bf16, or as int8 with a scale for each sample.

    int8    (B, n) floats  ->  (B, n + 4) bytes: each sample's values in units of its largest / 127, then the
                               unit as float32

Both ends of a link agree on the format, and the receiver knows shape and dtype from the plan. A sample that
is not finite does not become finite, so nobody takes it for a good one. Labels and other extras, markers and
integers stay as they are.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor
from typing_extensions import override

from dni_async.messages import Activation, Message, TargetGradient
from workers.transport.base import Receiver, Sender
from workers.transport.forwarding import ForwardingReceiver, ForwardingSender
from workers.transport.links import Link
from workers.transport.wire import payload_bytes

WireFormat = Literal["fp32", "bf16", "int8"]

_LARGEST = 127
_SCALE_BYTES = 4


def compress(tensor: Tensor, wire: WireFormat) -> Tensor:
    """A (B, ...) tensor in the format of the wire; itself, if it is not of floats or has no rows."""
    if wire == "fp32" or not tensor.is_floating_point() or not tensor.numel():
        return tensor
    if wire == "bf16":
        return tensor.to(torch.bfloat16)
    rows = tensor.detach().reshape(len(tensor), -1).float()
    scale = rows.abs().amax(dim=1, keepdim=True) / _LARGEST
    values = (rows / scale.clamp(min=torch.finfo(torch.float32).tiny)).round_()
    return torch.cat([values.to(torch.int8), scale.float().view(torch.int8)], dim=1)


def decompress(tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """What was compressed, up to rounding.

    Args:
        tensor: As `compress` returned it.
        shape: Of a sample, without the batch; its first size may differ.
        dtype: Of the tensor before.
    """
    if tensor.dtype == dtype or not dtype.is_floating_point:
        return tensor
    if tensor.dtype is not torch.int8:
        return tensor.to(dtype)
    values, scale = tensor[:, :-_SCALE_BYTES], tensor[:, -_SCALE_BYTES:].contiguous().view(torch.float32)
    sizes = (-1, *shape[1:]) if shape else ()  # a sequence may be longer or shorter
    return (values * scale).to(dtype).reshape(len(tensor), *sizes)


class CompressingSender(ForwardingSender):
    """Compresses what it sends, and counts the bytes."""

    def __init__(self, sender: Sender, wire: WireFormat) -> None:
        super().__init__(sender)
        self._wire = wire
        self._bytes, self._batches = 0, 0

    def bytes_per_batch(self) -> float:
        """Mean bytes of the payloads of training batches; 0 before the first."""
        return self._bytes / max(1, self._batches)

    @override
    def send(self, message: Message, timeout: float) -> None:
        if isinstance(message, Activation):
            message = replace(message, h=compress(message.h, self._wire))
        elif isinstance(message, TargetGradient):
            message = replace(message, grad=compress(message.grad, self._wire))
        if isinstance(message, TargetGradient) or (isinstance(message, Activation) and message.train):
            self._bytes += payload_bytes(message)
            self._batches += 1
        super().send(message, timeout)


class DecompressingReceiver(ForwardingReceiver):
    """Restores what a `CompressingSender` has sent."""

    def __init__(self, receiver: Receiver, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        super().__init__(receiver)
        self._shape, self._dtype = shape, dtype

    @override
    def recv(self, timeout: float) -> Message:
        message = super().recv(timeout)
        if isinstance(message, Activation):
            message.h = decompress(message.h, self._shape, self._dtype)
        elif isinstance(message, TargetGradient):
            message.grad = decompress(message.grad, self._shape, self._dtype)
        return message


def compress_link(link: Link, wire: WireFormat, shape: tuple[int, ...], dtype: torch.dtype) -> Link:
    """Return ends of the link that send in this format and restore what comes in it.

    Args:
        shape: Of a sample at this link, without the batch.
        dtype: Of activations and gradients at this link.
    """
    return Link(CompressingSender(link.sender, wire), DecompressingReceiver(link.receiver, shape, dtype))
