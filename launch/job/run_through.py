"""Runs the layers of a task once, to learn what crosses between them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from dni_async.boundary import Boundary, Extras, check_extras
from dni_async.errors import UserError, cause_of
from dni_async.trees import describe_tree, map_tensors
from dni_async.walk import walk
from tasks.base import Task
from workers.runtime.precision import sequential


@dataclass(slots=True)
class Crossings:
    """What crosses in front of the first layer and behind each of them, for one batch."""

    boundaries: list[Boundary] = field(default_factory=list)
    h: list[Tensor] = field(default_factory=list)
    """(B, ...) each, on the CPU."""
    extras: list[Extras] = field(default_factory=list)

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """The shape of each layer's h, without the batch."""
        return [tuple(h.shape[1:]) for h in self.h[1:]]

    @property
    def output(self) -> Any:
        """What the last layer returned."""
        return self.boundaries[-1].unpack(self.h[-1], self.extras[-1])

    def packed(self, loss: Callable[[Any, Any], Tensor]) -> Callable[[Tensor, Any], Tensor]:
        """Return the loss as a function of the last h, in place of the output."""
        boundary, extras = self.boundaries[-1], self.extras[-1]
        return loss if boundary.is_tensor else lambda h, y: loss(boundary.unpack(h, extras), y)


def run_through(
    task: Task,
    layers: Iterable[nn.Module],
    inputs: Any,
    precision: str = "fp32",
    labels: int = 0,
    device: torch.device | None = None,
) -> Crossings:
    """Return what crosses between the layers, of which copies are run, in eval mode.

    Args:
        labels: further labels of a batch, which travel with it.
        device: where they run, by default the CPU; types in 16 bits are not the same on all devices.

    Raises:
        UserError: names the layer that does not take the output of the layer before it, or that returns
            something that cannot be sent.
    """

    def prepare(layer: nn.Module) -> nn.Module:
        return sequential([copy.deepcopy(layer)], precision).to(device).eval()

    if device is not None:
        inputs = map_tensors(lambda tensor: tensor.to(device), inputs)
    found = Crossings()
    steps = walk(layers, inputs, f"batch of task {task.name}", prepare)
    try:
        for boundary, h, extras in steps:
            check_extras(boundary, labels)
            found.boundaries.append(boundary)
            found.h.append(h.cpu())
            found.extras.append(tuple(extra.cpu() for extra in extras))
    except UserError:
        raise
    except Exception as error:
        given = describe_shape(found.boundaries[-1].unpack(found.h[-1], found.extras[-1]))
        raise UserError(
            f"layer {len(found.h) - 1} does not take what comes before it, {given} ({cause_of(error)})"
        ) from error
    return found


def bind(layers: Sequence[nn.Module], crossings: Crossings) -> list[nn.Module]:
    """Return each layer as a module from h to h, with the extras of the batch, to be run alone."""
    return [bind_one(layer, i, crossings) for i, layer in enumerate(layers)]


def bind_one(layer: nn.Module, number: int, crossings: Crossings) -> nn.Module:
    """Return the layer of this number as `bind` does."""
    takes, returns = crossings.boundaries[number : number + 2]
    if takes.is_tensor and returns.is_tensor:
        return layer
    return Bound(layer, takes, returns, crossings.extras[number])


class Bound(nn.Module):
    """A layer from h (B, ...) to h (B, ...), whose extras are always those of one batch."""

    def __init__(self, layer: nn.Module, takes: Boundary, returns: Boundary, extras: Extras) -> None:
        super().__init__()
        self.layer, self.takes, self.returns, self.extras = layer, takes, returns, extras

    def forward(self, h: Tensor) -> Tensor:
        """Return the layer's h."""
        extras = tuple(extra.to(h.device) for extra in self.extras)
        return self.returns.pack(self.layer(self.takes.unpack(h, extras)))[0]


def describe_shape(tree: Any) -> str:
    """Return the shape of a tensor, or words for a tree."""
    return str(tuple(tree.shape)) if isinstance(tree, Tensor) else describe_tree(tree)
