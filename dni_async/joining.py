"""Several tensors as one: joined along a dimension in which alone they differ, or as rows.

    (B, T, D), (B, T, E)              (B, T, D + E)            features
    (B, C, H, W), (B, D, H, W)        (B, C + D, H, W)         channels
    (B, T, D), (B, E)                 (B, T * D + E)           rows

Types are promoted, and restored by the split. Autograd goes through both.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dni_async.trees import type_name

ROWS = 0
"""In place of a dimension: the tensors are joined as rows (B, n)."""


@dataclass(frozen=True, slots=True)
class Join:
    """How tensors like those of an example are joined."""

    dim: int
    """Counted from 0 for the batch; or `ROWS`."""
    shapes: tuple[tuple[int, ...], ...]
    """Of each tensor, without the batch."""
    dtypes: tuple[torch.dtype, ...]
    """Of each tensor."""

    @classmethod
    def of(cls, parts: Sequence[Tensor]) -> Join:
        """Return how to join tensors (B, ...) like these, of equal B."""
        shapes = tuple(tuple(part.shape[1:]) for part in parts)
        return cls(_dim(shapes), shapes, tuple(part.dtype for part in parts))

    def join(self, parts: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
        """Return the tensors as one, and their sizes along `dim` where they are not those of the example.

        Raises:
            RuntimeError: they cannot be joined like those of the example.
        """
        if self.dim == ROWS:
            if any(tuple(part.shape[1:]) != shape for part, shape in zip(parts, self.shapes, strict=True)):
                raise RuntimeError("tensors that are joined as rows have other shapes than at the start")
            return torch.cat([_rows(part) for part in parts], 1), None
        sizes = [part.shape[self.dim] for part in parts]
        joined = torch.cat(list(parts), self.dim)
        return joined, None if sizes == self._sizes() else torch.tensor(sizes)

    def split(self, joined: Tensor, sizes: Tensor | None) -> Iterator[Tensor]:
        """Yield copies of the tensors that were joined: contiguous, and of their own types."""
        start = 0
        lengths = self._sizes() if sizes is None else sizes.tolist()
        for length, shape, dtype in zip(lengths, self.shapes, self.dtypes, strict=True):
            part = joined.narrow(max(self.dim, 1), start, length)
            start += length
            if self.dim == ROWS:
                part = part.reshape(len(joined), *shape)
            yield part.to(dtype, copy=True, memory_format=torch.contiguous_format)

    def state_dict(self) -> dict[str, Any]:
        """Return lengths, shapes and types in a form that JSON can hold."""
        names = [type_name(dtype) for dtype in self.dtypes]
        return {"dim": self.dim, "shapes": self.shapes, "dtypes": names}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Join:
        """Return the join of which `state_dict` returned the fields."""
        shapes = tuple(tuple(shape) for shape in state["shapes"])
        return cls(state["dim"], shapes, tuple(getattr(torch, name) for name in state["dtypes"]))

    def _sizes(self) -> list[int]:
        if self.dim == ROWS:
            return [torch.Size(shape).numel() for shape in self.shapes]
        return [shape[self.dim - 1] for shape in self.shapes]


def _dim(shapes: Sequence[tuple[int, ...]]) -> int:
    """Return the dimension to join along, or `ROWS`; of images it is that of the channels, if possible."""
    last = len(shapes[0])
    if {len(shape) for shape in shapes} == {last}:
        for dim in (1, last) if last >= 3 else (last, 1):
            if 0 < dim <= last and len({shape[: dim - 1] + shape[dim:] for shape in shapes}) == 1:
                return dim
    return ROWS


def _rows(part: Tensor) -> Tensor:
    """Return (B, ...) as (B, n)."""
    return part.flatten(1) if part.ndim > 1 else part.unsqueeze(1)
