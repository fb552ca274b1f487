"""Shapes of what a submodule returns, as a function of the sizes that vary from batch to batch.

The submodule runs twice on tensors without values, for two sizes of each dimension that varies. What follows
from the results is all that a trace of the code around it has to know:

    takes (B, T, 16)     runs on  (4, 6, 16)  and  (12, 3, 16)
    returns                       (4, 6, 32)       (12, 3, 32)       so it returns  (B, T, 32)
                                  (4, 16)          (12, 16)                         (B, 16)
                                  (24, 5)          (36, 5)                          (B * T, 5)
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import SymInt, Tensor
from torch.utils import _pytree as pytree

from dni_async.errors import UserError

RUNS = (0, 1)
"""Numbers of the two runs."""


class SymbolicSizes:
    """The two numbers of every symbol of the sizes of the inputs.

    Args:
        example: a tree of tensors.
        symbolic: the same tree, of tensors with symbolic sizes.
    """

    def __init__(self, example: Any, symbolic: Any) -> None:
        self._numbers: dict[Any, tuple[int, int]] = {}
        for real, traced in zip(pytree.tree_leaves(example), pytree.tree_leaves(symbolic), strict=True):
            for dim, size in enumerate(traced.shape):
                if isinstance(size, SymInt):
                    pair = real.shape[dim], _second(real.shape[dim], dim)
                    self._numbers |= dict.fromkeys(size.node.expr.free_symbols, pair)

    def number(self, size: SymInt | int, run: int) -> int:
        """Return a size as it is in one of the two runs."""
        if not isinstance(size, SymInt):
            return size
        numbers = {symbol: pair[run] for symbol, pair in self._numbers.items()}
        number = size.node.expr.xreplace(numbers)
        if getattr(number, "free_symbols", ()):
            raise UserError("the size of a tensor follows from values of tensors")
        return int(number)

    def without_values(self, tensor: Tensor, run: int) -> Tensor:
        """Return a tensor of the same type and order in memory, with the sizes of one of the two runs."""
        sizes, strides = (
            [self.number(n, run) for n in numbers] for numbers in (tensor.shape, tensor.stride())
        )
        return _empty(tensor, sizes, strides)

    def symbolic(self, first: Tensor, second: Tensor, given: Iterable[Tensor]) -> Tensor:
        """Return a tensor with symbolic sizes, from those of both runs.

        Args:
            first: result of the first run.
            second: result of the second run.
            given: what the submodule was given, with symbolic sizes.
        """
        known: dict[str, Any] = {
            str(size): size for tensor in given for size in tensor.shape if isinstance(size, SymInt)
        }
        sizes = [self._size(pair, known) for pair in zip(first.shape, second.shape, strict=True)]
        return _empty(first, sizes, first.stride())

    def _size(self, pair: tuple[int, int], known: Mapping[str, Any]) -> SymInt | int:
        if pair[0] == pair[1]:
            return pair[0]
        single = list(known.values())
        products = [a * b for a, b in itertools.combinations_with_replacement(single, 2)]
        for size in (*single, *products):
            numbers = tuple(self.number(size, run) for run in RUNS)
            if pair == numbers:
                return size
        for size in single:
            a, b = (self.number(size, run) for run in RUNS)
            if pair[0] - a == pair[1] - b:
                return size + (pair[0] - a)
            if pair[0] * b == pair[1] * a and pair[0] % a == 0:
                return size * (pair[0] // a)
            if pair[0] * b == pair[1] * a and a % pair[0] == 0:
                return size // (a // pair[0])
        raise UserError(f"a tensor of {pair[0]} rows or columns is one of {pair[1]} for a larger batch")


def _second(size: int, dim: int) -> int:
    """Return a size for the second run: a larger batch, and shorter texts, since tables may limit them."""
    if dim == 0:
        return 3 * size
    return size // 2 if size % 2 == 0 and size > 2 else size + 1


def _empty(like: Tensor, sizes: Sequence[SymInt | int], strides: Sequence[int]) -> Tensor:
    """Return a tensor of these sizes without values, with its dimensions in the order of these strides."""
    order = sorted(range(len(sizes)), key=lambda dim: -strides[dim])
    empty = torch.empty([sizes[dim] for dim in order], dtype=like.dtype, device=like.device)
    return empty.permute([order.index(dim) for dim in range(len(sizes))])
