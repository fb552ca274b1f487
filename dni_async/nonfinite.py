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


class FiniteChecks:
    """The checks of one stage: at once, or, so that nobody waits for a device, when their results are there.

        at once    forward -> h? Activation -> gradient? ...                raises NonFinite here
        deferred   forward ->    Activation ->           ...  | take: ("activation", 3.1), ("gradient", nan)

    A deferred check finds the value when it has reached weights and neighbours: only a run that ends with it
    may defer.
    """

    def __init__(self, deferred: bool = False) -> None:
        self.deferred = deferred
        self._largest: list[tuple[NonFinite, Tensor]] = []

    def check(self, what: str, tensors: Sequence[Tensor]) -> None:
        """Look for values that are not finite, as `check_finite`."""
        if not self.deferred:
            check_finite(what, tensors)
        elif parts := [_largest(tensor) for tensor in tensors if tensor.numel()]:
            largest = parts[0] if len(parts) == 1 else torch.stack(parts).amax()
            self._largest.append((NonFinite(f"the {what} has NaN or infinite values"), largest))

    def loss(self, loss: Tensor, which: str = "the loss", rates: str = "--lr") -> float | Tensor:
        """Return a loss (a scalar) as a number, checked as by `check_loss`; deferred, as it is, detached."""
        if not self.deferred:
            return check_loss(loss.item(), which, rates)
        self._largest.append((NonFinite(f"{which} is NaN or infinite", rates), loss.detach().float()))
        return loss.detach()

    def take(self) -> list[tuple[NonFinite, Tensor]]:
        """Return, once, the deferred checks: each error, and the scalar whose value decides whether it is
        raised: not if it is finite."""
        taken, self._largest = self._largest, []
        return taken

    def wait(self) -> None:
        """Wait for the deferred checks. Raises NonFinite."""
        if taken := self.take():
            for value, (error, _) in zip(torch.stack([v for _, v in taken]).tolist(), taken, strict=True):
                if not math.isfinite(value):
                    raise error


AT_ONCE = FiniteChecks()
"""Checks that are not deferred; they have no state."""


def _largest(tensor: Tensor) -> Tensor:
    """Return the largest absolute value, as a scalar; NaN if there is one."""
    return torch.linalg.vector_norm(_values(tensor).float(), torch.inf)


def _values(tensor: Tensor) -> Tensor:
    return tensor.detach().coalesce().values() if tensor.is_sparse else tensor.detach()
