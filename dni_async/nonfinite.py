"""NaN and infinite values are found before they reach weights, an optimizer, an SG network or a message.

    forward -> h?  Activation -> loss? gradient at h? -> backward -> gradients? TargetGradient -> update

The check raises `NonFinite` and changes nothing. A stage re-raises it, and the run stops, or skips the batch
and counts it:

    stage 1          A7   A8 (h is NaN)   A9     no update for batch 8. A message without rows takes the place
      downstream     A7   A8 (0 rows)     A9     of its activation and of its target, so that all stages
    stage 2          A7   A8 (0 rows)     A9     stay in step
      upstream       T7   T8 (0 rows)     T9
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from dni_async.errors import UserError

POLICIES = ("stop", "skip")
"""What a run does then."""


class NonFinite(UserError):
    """An activation, a gradient or a loss is NaN or infinite."""

    def __init__(self, what: str, rates: str = "--lr") -> None:
        super().__init__(f"{what}; lower {rates} or set --clip-norm, and check the data")


def check_finite(what: str, tensors: Sequence[Tensor]) -> None:
    """Raises NonFinite if one of the tensors (any shapes, one device) has NaN or infinite values.

    what: "activation" or "gradient", for the error.
    """
    if not all_finite(tensors):
        raise NonFinite(f"the {what} has NaN or infinite values")


def check_loss(loss: float, which: str = "the loss", rates: str = "--lr") -> float:
    """Return the loss. Raises NonFinite if it is NaN or infinite."""
    if not math.isfinite(loss):
        raise NonFinite(f"{which} is {loss}", rates)
    return loss


def all_finite(tensors: Sequence[Tensor]) -> bool:
    """Whether no element of the tensors (any shapes, one device) is NaN or infinite.

    Takes one reduction per tensor, and on a GPU one synchronisation.
    """
    if not tensors:
        return True
    sums = [tensor.detach().sum().float() for tensor in tensors]
    if math.isfinite((sums[0] if len(sums) == 1 else torch.stack(sums).sum()).item()):
        return True
    # large values may have a sum that is infinite
    return all(bool(_values(tensor).isfinite().all()) for tensor in tensors)


def _values(tensor: Tensor) -> Tensor:
    return tensor.detach().coalesce().values() if tensor.is_sparse else tensor.detach()
