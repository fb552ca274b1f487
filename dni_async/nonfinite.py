"""NaN and infinite values: found before they get into weights, an optimizer, an SG network or a message.

    forward -> h?  Activation -> loss? gradient at h? -> backward -> gradients? TargetGradient -> update

Whoever finds one raises `NonFinite` and leaves everything as it was. A stage lets it through (the run stops),
or goes on without the batch and counts it:

    stage 1          A7   A8 (h is NaN)   A9           no update for 8, to nobody's harm: an empty activation
      downstream     A7   A8 (0 rows)     A9           keeps the others in step, and so does the empty target
    stage 2          A7   A8 (0 rows)     A9           that answers it
      upstream       T7   T8 (0 rows)     T9
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from dni_async.errors import UserError

POLICIES = ("stop", "skip")
"""What to do then."""


class NonFinite(UserError):
    """Something that training computed is NaN or infinite: an activation, a gradient or a loss."""

    def __init__(self, what: str, rates: str = "--lr") -> None:
        super().__init__(f"{what}; lower {rates} or set --clip-norm, and check the data")


def check_finite(what: str, tensors: Sequence[Tensor]) -> None:
    """Raises NonFinite when one of the tensors (any shapes, one device) holds NaN or infinity; `what` is
    "activation" or "gradient"."""
    if not all_finite(tensors):
        raise NonFinite(f"the {what} has NaN or infinite values")


def check_loss(loss: float, which: str = "the loss", rates: str = "--lr") -> float:
    """The loss, if training can go on with it. Raises NonFinite."""
    if not math.isfinite(loss):
        raise NonFinite(f"{which} is {loss}", rates)
    return loss


def all_finite(tensors: Sequence[Tensor]) -> bool:
    """Whether no element is NaN or infinite. One reduction per tensor and one look at the result, which on a
    GPU waits for it."""
    if not tensors:
        return True
    sums = [tensor.detach().sum().float() for tensor in tensors]
    if math.isfinite((sums[0] if len(sums) == 1 else torch.stack(sums).sum()).item()):
        return True
    # large values may have a sum that is infinite
    return all(bool(_values(tensor).isfinite().all()) for tensor in tensors)


def _values(tensor: Tensor) -> Tensor:
    return tensor.detach().coalesce().values() if tensor.is_sparse else tensor.detach()
