"""How well predictions agree with the targets that came for them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dni_async.state.state_dict import State


class Agreement:
    """How well predictions meet their targets. To be shown, not gated on: it does not rank recipes.

    Sums are divided once, at the end: a single target that is nearly zero, such as the first through time,
    would have a relative error beyond all bounds.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Start over (at each epoch)."""
        self._sums = dict.fromkeys(("squared_error", "squared_target", "squared_prediction", "product"), 0.0)

    def add(self, prediction: Tensor, target: Tensor) -> None:
        """Compare one prediction with its target (any shape)."""
        p, t = prediction.flatten().double(), target.flatten().double()
        error = p - t
        found = torch.stack([error @ error, t @ t, p @ p, p @ t]).tolist()
        self._sums = {name: old + new for (name, old), new in zip(self._sums.items(), found, strict=True)}

    def stats(self) -> dict[str, float | None]:
        """Relative error sqrt(sum |g - t|^2 / sum |t|^2) and cosine sum g.t / sqrt(sum |g|^2 sum |t|^2) since
        `clear`; None when nothing came, or only targets that are zero."""
        squared_error, squared_target, squared_prediction, product = self._sums.values()
        if not (0 < squared_target < math.inf and squared_prediction < math.inf):  # nor where one is NaN
            return {"sg_relative_error": None, "sg_cosine": None}
        norms = math.sqrt(squared_target) * math.sqrt(squared_prediction)
        return {
            "sg_relative_error": math.sqrt(squared_error / squared_target),
            "sg_cosine": product / norms if norms else 0.0,
        }

    def state_dict(self) -> State:
        """The sums."""
        return dict(self._sums)

    def load_state_dict(self, state: State) -> None:
        """Go on from there; from what a version before these sums kept, start over."""
        self._sums = {name: state.get(name, 0.0) for name in self._sums}
