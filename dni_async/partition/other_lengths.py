"""Inputs of other lengths than the example's, for which a model might take another way.

What torch.export has recorded says for which lengths it holds. Both sides of each limit are compared, and a
length beside the example's, for decisions that leave no limit:

    example (2, 8)     `if T > 9` in the model: recorded for T = 2 to 9     compared: 7, 10
                       `if T % 2`:              recorded for T >= 2         compared: 7
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree
from torch.utils._sympy.numbers import int_oo

LONGEST = 2048
"""Length up to which a limit is compared."""


def size_limits(size: torch.SymInt | int, ranges: Mapping[Any, Any]) -> tuple[int, int | None]:
    """Return the smallest and the largest size that a trace allows; None for no limit."""
    if not isinstance(size, torch.SymInt):
        return size, size
    bounds = ranges.get(size.node.expr)
    if bounds is None:
        return 2, None
    return int(bounds.lower), None if bounds.upper is int_oo else int(bounds.upper)


def other_lengths(graphs: Iterable[fx.Graph], example: Any) -> list[Any]:
    """Return the example in other lengths.

    Args:
        graphs: see `trace`.
        example: a tree of tensors (B, ...). Dimensions of equal size, which usually go together, stay so.
    """
    compared: dict[int, set[int]] = {}
    leaves = pytree.tree_leaves(example)
    for graph in graphs:
        inputs = [node for node in graph.nodes if node.op == "placeholder"]
        for x, node in zip(leaves, inputs, strict=True):
            if x.is_floating_point():
                continue
            for size, (lower, upper) in zip(x.shape[1:], node.meta["limits"][1:], strict=True):
                beside = size - 1 if size > 2 else size + 1
                beyond = [lower - 1, *([] if upper is None or upper >= LONGEST else [upper + 1])]
                compared.setdefault(size, {beside}).update(other for other in beyond if other > 1)
    return [
        pytree.tree_map(lambda x, size=size, other=other: _resized(x, size, other), example)
        for size, others in compared.items()
        for other in sorted(others - {size})
    ]


def _resized(x: Tensor, size: int, other: int) -> Tensor:
    """Return a tensor of whole numbers with the dimensions of one size in another; values are repeated."""
    if x.is_floating_point():
        return x
    for dim in range(1, x.ndim):
        if x.shape[dim] == size:
            x = x.index_select(dim, torch.arange(other, device=x.device) % size)
    return x
