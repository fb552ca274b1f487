"""What a rule is built from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from dni_async.boundary import TENSOR, Boundary
from dni_async.networks.settings import LocalConfig, SGConfig
from dni_async.optim import Updater


def _unchanged(module: nn.Module) -> nn.Module:
    return module


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleContext:
    """The interface at which a rule works, and the settings of the job. Shapes are without the batch."""

    shape: tuple[int, ...]
    """Of the stage's output h."""
    output_shape: tuple[int, ...]
    """Of the whole network's output."""
    output: Boundary = TENSOR
    """How the whole network's output is packed."""
    loss: Callable[[Any, Any], Tensor]
    """(output (B, ...), y (B, ...)) -> scalar, the mean over the batch."""
    metric: Callable[[Any, Any], Tensor]
    """(output (B, ...), y (B, ...)) -> (N,) scores."""
    valid: Callable[[Any], Tensor] | None = None
    """y (B, ...) -> which labels count in the loss, in the shape of y; None where all of them do."""
    condition: Callable[[Any], Tensor] | None = None
    """y (B, ...) -> (B, C) floats, the labels as a network takes them."""
    class_indices: Callable[[Any], Tensor] | None = None
    """y (B, ...) -> class indices, -1 for a label that does not count: what a network takes instead of
    `condition` if it can; None where `condition` is not one-hot."""
    label_size: int = 0
    """C, the columns that `condition` returns."""
    classes: int | None = None
    """Classes of the task; None where labels are no classes."""
    boundary: Boundary = TENSOR
    """How the stage's output is packed into h and extras."""
    stages: int = 2
    """Stages of the whole network."""
    sg: SGConfig = field(default_factory=SGConfig)
    """Settings of SG networks."""
    local: LocalConfig = field(default_factory=LocalConfig)
    """Settings of auxiliary heads."""
    pending_capacity: int = 10
    """Batches that may wait for their target at once."""
    stash_capacity: int = 1
    """Graphs that a rule may keep at once."""
    predicted_updates: int = 0
    """Updates by which rule delayed extrapolates the weights for a forward."""
    seed: int = 0
    """Of the rule's own weights."""
    device: torch.device | None = None
    batch_normalised: bool = False
    """Whether h is, in a network without residual connections (see `networks.batch_normalised`)."""
    schedule: Callable[[int], float] | None = None
    """Factor of the stage's learning rate by weight version; None where it is constant."""
    guarded: bool = False
    """Whether the rule shall raise NonFinite instead of learning from NaN or infinite gradients."""
    in_precision: Callable[[nn.Module], nn.Module] = _unchanged
    """Puts a module into the precision of the stage's layers."""
    copy_downstream: Callable[[], tuple[nn.Module, Updater]] | None = None
    """Return a copy of all layers downstream, and what steps them as their stages do."""
