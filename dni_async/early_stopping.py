"""Early stopping: end when the validation gets no better, and go back to the weights with which it was best.

Every stage decides for itself whether a validation was the best so far, by the same rule and from the result
that the validation's marker brings back. So all of them keep, and later take up, weights of the same batches,
and nobody has to be told.

    stage 0   V0 V1  EPOCH  A8 A9  T7  EPOCH         ... A23  RESTORE    T22 T23  RESTORE      E0 E1  STOP
                     copy              keep or drop it        no more activations take up the best
    stage 1   V0 V1  EPOCH             A8 A9         ... A23  RESTORE                          E0 E1  STOP
                     copy, keep or drop it                    take up the best

The RESTORE marker comes back behind the markers of all validations, so nothing is undecided any more, and
behind all targets, so nothing trains any more. (Under rule `delayed` the last targets may come during a
validation, and train: the copy is of its end, and its first batches went through slightly older weights.)
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import asdict, dataclass, field

from torch import nn

from dni_async.messages import EVALUATIONS, Marker, MarkerKind
from dni_async.state.state_dict import State, copied


@dataclass(slots=True)
class Patience:
    """Which validation is the best so far, and whether that was too long ago.

    limit: how long training goes on without a better one, in the unit of `at` (steps, epochs); 0: for ever.
    """

    limit: int = 0
    loss: float | None = None
    """Of the best validation; None before the first."""
    best_at: int = 0
    """When that was."""
    last_at: int = 0
    """When the last validation was."""

    @property
    def over(self) -> bool:
        """Training shall end; validations that were under way then do not count."""
        return 0 < self.limit <= self.last_at - self.best_at

    def better(self, at: int, loss: float) -> bool:
        """Take a validation; whether it is better than all before it (NaN never is)."""
        if self.over:
            return False
        self.last_at = at
        if math.isnan(loss) or (self.loss is not None and loss >= self.loss):
            return False
        self.loss, self.best_at = loss, at
        return True

    def state_dict(self) -> State:
        """All but the limit, JSON-able."""
        state = asdict(self)
        del state["limit"]
        return state

    def load_state_dict(self, state: State) -> None:
        """Go on from there."""
        for name, value in state.items():
            setattr(self, name, value)


@dataclass(slots=True)
class Best:
    """The weights and buffers that `layers` had at the best validation."""

    layers: nn.Module
    patience: Patience
    restoring: bool = False
    """The RESTORE marker went down and is not back: no activation may be handled."""
    weights: State = field(default_factory=dict)
    """Empty before the first."""
    _under_way: deque[State] = field(default_factory=deque)
    """Copies for the validations whose markers went down and are not back."""

    def judge(self, at: int, loss: float, weights: State | None = None) -> None:
        """A validation gave this loss with `weights`, by default those that the layers have now."""
        if self.patience.better(at, loss):
            self.weights = copied(self.layers.state_dict()) if weights is None else weights

    def take_up(self) -> None:
        """The layers get the best weights, if there was a validation at all."""
        if self.weights:
            self.layers.load_state_dict(self.weights)

    def went_down(self, marker: Marker) -> None:
        """Behind a validation, or the last training batch."""
        if marker.kind in EVALUATIONS:
            self._under_way.append(copied(self.layers.state_dict()))
        elif marker.kind is MarkerKind.RESTORE:
            self.restoring = True

    def came_back(self, marker: Marker) -> None:
        """With the result of the validation; or nothing trains any more."""
        if marker.kind in EVALUATIONS:
            self.judge(marker.step, marker.body["result"]["test_loss"], self._under_way.popleft())
        elif marker.kind is MarkerKind.RESTORE:
            self.take_up()
            self.restoring = False

    def state_dict(self) -> State:
        """What belongs into a part of a checkpoint whose marker is back."""
        return {"best": self.weights, "patience": self.patience.state_dict()}

    def load_state_dict(self, state: State) -> None:
        """Go on from there; from nothing where the part was made without validations."""
        if "best" in state:
            self.weights = copied(state["best"])
            self.patience.load_state_dict(state["patience"])
