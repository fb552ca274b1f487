"""Units of the gradients that an SG network works in.

A mean loss makes dL/dh about 1e-5 per element, which is lost in MSE and in Adam's eps. So the network sees
the gradient of the per-sample loss (times B), or the gradient over its running RMS; the stage scales back.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dni_async.state.state_dict import State

UNITS = ("sample", "rms", "none")


class GradientScale:
    """Converts between the gradient of the mean loss and the SG network's units.

    units: "sample" multiplies by the batch size B, or by the share of it whose labels count; "rms" divides by
    the bias-corrected running root mean square of the targets (decay 0.99); "none" leaves the gradient as it
    is.
    """

    decay = 0.99

    def __init__(self, units: str = "sample") -> None:
        assert units in UNITS, units
        self.units = units
        self._square = 0.0
        self._count = 0

    def to_network(self, gradient: Tensor, share: float = 1.0) -> Tensor:
        """Return a target (B, ...) in the network's units, in memory of its own.

        share: of the batch's labels that the mean loss is over.
        """
        if self.units == "none":
            return gradient.clone()
        if self.units == "sample":
            return gradient * (len(gradient) * share)
        self._count += 1
        self._square += (1 - self.decay) * (float(gradient.square().mean()) - self._square)
        return gradient / self._rms()

    def to_stage(self, prediction: Tensor, share: float = 1.0) -> Tensor:
        """Return a prediction (B, ...) as the gradient of the mean loss: zero where no label counts."""
        if not share:
            return torch.zeros_like(prediction)
        if self.units == "none":
            return prediction
        if self.units == "sample":
            return prediction / (len(prediction) * share)
        return prediction * self._rms()

    def state_dict(self) -> State:
        """Return the running mean square."""
        return {"square": self._square, "count": self._count}

    def load_state_dict(self, state: State) -> None:
        """Take up what `state_dict` returned."""
        self._square, self._count = state["square"], state["count"]

    def _rms(self) -> float:
        if not self._count:
            return 1.0
        return max((self._square / (1 - self.decay**self._count)) ** 0.5, 1e-30)
