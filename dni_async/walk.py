"""Runs layers one by one, as if the network were cut between all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from dni_async.boundary import Boundary, Extras


def run_between(
    layer: Callable[[Any], Any], takes: Boundary, h: Tensor, extras: Extras, name: str, first: bool
) -> tuple[Boundary, Tensor, Extras]:
    """Run a layer on what crosses in front of it, h (B, ...) and extras.

    Args:
        name: of the layer, for errors.
        first: whether the layer is the first one, whose input needs no gradient.

    Returns:
        The boundary behind the layer, and the h and the extras that cross it.
    """
    with torch.enable_grad():
        leaf = h.detach().requires_grad_(not first and h.is_floating_point())
        value = layer(takes.unpack(leaf.clone(), extras))  # a clone: the layer may work in place
        returns = Boundary.of(value, name)
        h, extras = returns.pack(value)
    return returns, h.detach(), extras


def walk(
    layers: Iterable[nn.Module],
    inputs: Any,
    name: str = "the batch",
    prepare: Callable[[nn.Module], nn.Module] = lambda layer: layer,
) -> Iterator[tuple[Boundary, Tensor, Extras]]:
    """Run layers one by one; they change as in a forward pass.

    Yields the boundary in front of the first and behind each of them, with the h and the extras that cross
    it.

    Args:
        inputs: of the first layer, for one batch.
        name: of who made them, for errors.
        prepare: returns the module to run in place of a layer, such as a copy.
    """
    boundary = Boundary.of(inputs, name)
    h, extras = boundary.pack(inputs)
    yield boundary, h, extras
    for i, layer in enumerate(layers):
        who = f"layer {i} ({type(layer).__name__})"
        boundary, h, extras = run_between(prepare(layer), boundary, h, extras, who, first=i == 0)
        yield boundary, h, extras
