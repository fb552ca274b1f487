"""Keeps gradients in fp16 from vanishing: they are computed from a scaled loss.

    update       1         2         3         4 ...
    scale        65,536    32,768    32,768    32,768      doubled after 2,000 finite updates in a row
    gradients    infinite  finite    finite    finite
    update       left out  made      made      made

Micikevicius et al. 2018, "Mixed precision training", section 3.2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from dni_async.nonfinite import NonFinite, all_finite
from dni_async.state.state_dict import State


class LossScaler:
    """The scale of one updater's gradients.

    Args:
        scale: to start with.
        growth_interval: updates in a row without an infinite value after which the scale doubles.
    """

    def __init__(self, scale: float = 2.0**16, growth_interval: int = 2000) -> None:
        self.scale = scale
        self.skipped = 0
        """Updates that were left out."""
        self.agree: Callable[[bool], bool] = lambda finite: finite
        """From whether this updater's gradients are finite to whether all are that have the same scale."""
        self._growth_interval, self._finite = growth_interval, 0

    def scaled(self, tensor: Tensor) -> Tensor:
        """Return a loss, or a gradient (B, ...), times the scale."""
        return tensor * self.scale

    @torch.no_grad()
    def unscale(self, gradients: Sequence[Tensor]) -> bool:
        """Divide gradients by the scale, and set the scale of the next update.

        Returns:
            Whether they are finite, so that the update may be made.

        Raises:
            NonFinite: they are not, even without a scale.
        """
        finite = self.agree(all_finite(gradients))
        if finite and gradients:
            torch._foreach_mul_(list(gradients), 1 / self.scale)
        self.skipped += not finite
        self._finite = self._finite + 1 if finite else 0
        if not finite:
            self.scale /= 2
            if self.scale < 1:
                raise NonFinite("the gradient has NaN or infinite values, however small its scale")
        elif self._finite == self._growth_interval:
            self.scale, self._finite = self.scale * 2, 0
        return finite

    def unscaled(self, gradient: Tensor) -> Tensor | None:
        """Return a gradient (B, ...) that was computed from a scaled one, divided by the scale; None if it is
        not finite."""
        return gradient / self.scale if all_finite([gradient]) else None

    def stats(self) -> dict[str, Any]:
        """Return what a report shows, JSON-able."""
        return {"loss_scale": self.scale, "updates_skipped": self.skipped}

    def state_dict(self) -> State:
        """Return everything that changes, JSON-able."""
        return {"scale": self.scale, "finite": self._finite, "skipped": self.skipped}

    def load_state_dict(self, state: State) -> None:
        """Take up what `state_dict` returned."""
        self.scale, self._finite, self.skipped = state["scale"], state["finite"], state["skipped"]
