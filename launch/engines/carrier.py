"""One tensor in place of h and extras: torch's stages return a gradient for every tensor that they receive.

no extras    h (B, ...)
extras       (n,) of the type of h:  | h | mask: the bytes of each row, padded | table: its bytes | ...
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dni_async.boundary import Boundary, Extras


@dataclass(frozen=True, slots=True)
class Form:
    """Type and shape of a tensor for any number of rows."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    """Without the batch, if there is one."""
    has_rows: bool
    """Whether its first dimension is the batch."""
    requires_grad: bool = False

    @classmethod
    def of(cls, one: Tensor, two: Tensor) -> Form:
        """Return the form of a tensor from what it is for one row and for two."""
        has_rows = one.shape != two.shape
        shape = tuple(one.shape[1:] if has_rows else one.shape)
        return cls(one.dtype, shape, has_rows, one.requires_grad)

    def meta(self, rows: int) -> Tensor:
        """Return a tensor for so many rows, without memory."""
        shape = (rows, *self.shape) if self.has_rows else self.shape
        return torch.empty(shape, dtype=self.dtype, device="meta", requires_grad=self.requires_grad)

    def length(self, dtype: torch.dtype) -> int:
        """Return how many numbers of `dtype` have room for a row of it, or for all of it if it has none."""
        return -(-math.prod(self.shape) * self.dtype.itemsize // dtype.itemsize)

    def encode(self, tensor: Tensor, dtype: torch.dtype) -> Tensor:
        """Return its bytes as numbers (n,) of `dtype`."""
        rows = len(tensor) if self.has_rows else 1
        data = tensor.detach().contiguous().view(rows, -1).view(torch.uint8)
        room = data.new_zeros(rows, self.length(dtype) * dtype.itemsize)
        room[:, : data.shape[1]] = data
        return room.view(dtype).flatten()

    def decode(self, numbers: Tensor, rows: int) -> Tensor:
        """Return the tensor of so many rows that was encoded."""
        count = rows if self.has_rows else 1
        data = numbers.detach().clone().view(count, -1).view(torch.uint8)
        data = data[:, : math.prod(self.shape) * self.dtype.itemsize].contiguous().view(self.dtype)
        return data.view(rows, *self.shape) if self.has_rows else data.view(self.shape)


class Carrier:
    """What crosses between two stages, as one tensor.

    Args:
        boundary: how it is packed into h and extras.
        one, two: h and extras of one row, and of two.
    """

    def __init__(self, boundary: Boundary, one: tuple[Tensor, Extras], two: tuple[Tensor, Extras]) -> None:
        self.boundary = boundary
        self.h = Form.of(one[0], two[0])
        self.extras = [Form.of(a, b) for a, b in zip(one[1], two[1], strict=True)]

    def metas(self, rows: int) -> tuple[Tensor, ...]:
        """Return h and the extras of so many rows, without memory."""
        return tuple(form.meta(rows) for form in (self.h, *self.extras))

    def meta(self, rows: int) -> Tensor:
        """Return the one tensor for so many rows, without memory."""
        if not self.extras:
            return self.h.meta(rows)
        size, fixed = self._sizes()
        gradient = self.h.requires_grad
        return torch.empty(size * rows + fixed, dtype=self.h.dtype, device="meta", requires_grad=gradient)

    def join(self, h: Tensor, extras: Sequence[Tensor]) -> Tensor:
        """Return h and the extras as one tensor, through which the gradient of h goes."""
        if not self.extras:
            return h
        encoded = [form.encode(extra, h.dtype) for form, extra in zip(self.extras, extras, strict=True)]
        return torch.cat([h.flatten(), *encoded])

    def split(self, joined: Tensor) -> tuple[Tensor, Extras]:
        """Return h and the extras that were joined."""
        if not self.extras:
            return joined, ()
        size, fixed = self._sizes()
        rows = (len(joined) - fixed) // size
        start = rows * math.prod(self.h.shape)
        h, extras = joined[:start].view(rows, *self.h.shape), []
        for form in self.extras:
            end = start + form.length(self.h.dtype) * (rows if form.has_rows else 1)
            extras.append(form.decode(joined[start:end], rows))
            start = end
        return h, tuple(extras)

    def _sizes(self) -> tuple[int, int]:
        """Return the numbers for each row, and those for all rows together."""
        lengths = [(form.length(self.h.dtype), form.has_rows) for form in self.extras]
        row = math.prod(self.h.shape) + sum(length for length, has_rows in lengths if has_rows)
        return row, sum(length for length, has_rows in lengths if not has_rows)


class PipeModule(nn.Module):
    """The layers of a stage, from one tensor to one tensor; of the first stage, from h and extras.

    Args:
        device: where the layers are.
        wire: where torch's stages want what they receive and send: the CPU for gloo. The gradient goes back
            the same way.
    """

    def __init__(
        self,
        layers: nn.Module,
        takes: Carrier,
        returns: Carrier,
        is_first: bool,
        is_last: bool,
        device: torch.device,
        wire: torch.device,
    ) -> None:
        super().__init__()
        self.device, self.wire = device, wire
        self.layers, self.takes, self.returns = layers, takes, returns
        self.is_first, self.is_last = is_first, is_last

    def forward(self, x: Tensor, *extras: Tensor) -> Any:
        """Return the one tensor that crosses to the next stage; of the last stage, h of the output."""
        h, others = (x, extras) if self.is_first else self.takes.split(x.to(self.device))
        h, others = self.returns.boundary.pack(self.layers(self.takes.boundary.unpack(h, others)))
        return h if self.is_last else self.returns.join(h, others).to(self.wire)
