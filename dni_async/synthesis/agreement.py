"""How well predictions agree with the targets that came for them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dni_async.state.state_dict import State

_MOST_UNREAD = 64
RUNNING_DECAY = 0.97
"""Per target, of the running cosine."""


class Agreement:
    """How close predictions are to their targets. It does not rank recipes.

    The sums are divided once, at the end, because a single target near zero, such as the first one through
    time, would have an unbounded relative error.
    """

    def __init__(self) -> None:
        self._running_cosine, self._targets = 0.0, 1
        self._unread: list[Tensor] = []
        """Sums of single predictions, which a device computes in its own time."""
        self.clear()

    def clear(self) -> None:
        """Set all sums to zero."""
        self._sums = dict.fromkeys(("squared_error", "squared_target", "squared_prediction", "product"), 0.0)
        self._unread = []

    def add(self, prediction: Tensor, target: Tensor, targets: int = 1) -> None:
        """Add one prediction and its target, of the same shape, which stand for so many `targets`."""
        p, t = prediction.flatten().double(), target.flatten().double()
        error = p - t
        self._unread.append(torch.stack([error @ error, t @ t, p @ p, p @ t]))
        self._targets = targets
        if len(self._unread) >= _MOST_UNREAD:
            self._add_all()

    @property
    def running_cosine(self) -> float:
        """Mean cosine of the last predictions, which decays by `RUNNING_DECAY` per target. It starts at 0;
        `clear` leaves it."""
        self._add_all()
        return self._running_cosine

    def _add_all(self) -> dict[str, float]:
        if self._unread:
            for found in torch.stack(self._unread).tolist():
                self._sums = {k: old + new for (k, old), new in zip(self._sums.items(), found, strict=True)}
                self._follow(*found[1:])
            self._unread = []
        return self._sums

    def _follow(self, squared_target: float, squared_prediction: float, product: float) -> None:
        """Let the running cosine follow that of one prediction, if it has one."""
        norms = math.sqrt(squared_target * squared_prediction) if squared_target > 0 else 0.0
        if 0 < norms < math.inf and math.isfinite(product):
            step = 1 - RUNNING_DECAY**self._targets
            self._running_cosine += step * (product / norms - self._running_cosine)

    def stats(self) -> dict[str, float | None]:
        """Return the relative error sqrt(sum |g - t|^2 / sum |t|^2) and the cosine
        sum g.t / sqrt(sum |g|^2 sum |t|^2) since `clear`; None without a target other than zero."""
        squared_error, squared_target, squared_prediction, product = self._add_all().values()
        if not (0 < squared_target < math.inf and squared_prediction < math.inf):  # false for NaN, too
            return {"sg_relative_error": None, "sg_cosine": None}
        norms = math.sqrt(squared_target) * math.sqrt(squared_prediction)
        return {
            "sg_relative_error": math.sqrt(squared_error / squared_target),
            "sg_cosine": product / norms if norms else 0.0,
        }

    def state_dict(self) -> State:
        """Return the sums and the running cosine."""
        return self._add_all() | {"running_cosine": self._running_cosine}

    def load_state_dict(self, state: State) -> None:
        """Take up what `state_dict` returned; what an older version did not save starts at zero."""
        self._unread, self._running_cosine = [], state.get("running_cosine", 0.0)
        self._sums = {name: state.get(name, 0.0) for name in self._sums}
