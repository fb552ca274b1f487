"""Bytes of a network and its optimizer."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


def saved_bytes(layers: list[nn.Module], x: Tensor) -> tuple[list[int], list[int]]:
    """Return the bytes that autograd keeps of each layer for the backward of x (B, ...), and of its output.

    A tensor that two layers keep (the output of one, the input of the next) counts for the first; parameters,
    buffers and the batch itself do not count.
    """
    layers = copy.deepcopy(layers)
    permanent = {_address(t) for layer in layers for t in (*layer.parameters(), *layer.buffers())}
    kept = {address: 0 for address in (*permanent, _address(x))}
    saved, outputs = [], []

    def pack(tensor: Tensor) -> Tensor:
        kept.setdefault(_address(tensor), tensor.untyped_storage().nbytes())
        return tensor

    before = 0
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        for layer in layers:
            x = layer.train()(x)
            saved.append(sum(kept.values()) - before)
            before = sum(kept.values())
            outputs.append(x.nbytes)
    return saved, outputs


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def optimized_bytes(optimizer: Optimizer) -> int:
    """Return the bytes of the parameters, their gradients, and the optimizer's state."""
    parameters = (parameter for group in optimizer.param_groups for parameter in group["params"])
    return 2 * total_bytes(parameters) + state_bytes(optimizer)


def state_bytes(optimizer: Optimizer) -> int:
    """Return the bytes of the optimizer's state."""
    return total_bytes(
        v for state in optimizer.state.values() for v in state.values() if isinstance(v, Tensor)
    )


def total_bytes(tensors: Iterable[Tensor]) -> int:
    """Return the bytes of all tensors together."""
    return sum(tensor.nbytes for tensor in tensors)
