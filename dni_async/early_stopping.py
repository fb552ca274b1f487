"""Early stopping: end when the validation loss stops falling, and restore the weights of the best one.

Every stage decides for itself whether a validation was the best so far, from the result that the marker of
the validation brings back. All stages decide alike, so they keep and restore weights of the same batches
without another message.

    stage 0   V0 V1  EPOCH  A8 A9  T7  EPOCH         ... A23  RESTORE    T22 T23  RESTORE      E0 E1  STOP
                     copy              keep or drop it        no more activations load the best
    stage 1   V0 V1  EPOCH             A8 A9         ... A23  RESTORE                          E0 E1  STOP
                     copy, keep or drop it                    load the best

The RESTORE marker comes back after the markers of all validations, so every decision has been taken, and
after all targets, so training is over. (Under a rule that keeps graphs, targets may arrive, and train, during
a validation: the copy is made at its end, and its first batches went through slightly older weights.)
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

from torch import nn

from dni_async.messages import EVALUATIONS, Marker, MarkerKind
from dni_async.state.state_dict import State, copied


@dataclass(slots=True)
class Patience:
    """The best validation so far, and whether it was too long ago.

    limit: how long training may continue without a better one, in the unit of `at` (steps or epochs); 0: for
    ever.
    """

    limit: int = 0
    loss: float | None = None
    """Of the best validation; None before the first."""
    best_at: int = 0
    """When the best validation was."""
    last_at: int = 0
    """When the last validation was."""

    @property
    def over(self) -> bool:
        """Whether training must end; validations that are still under way then do not count."""
        return 0 < self.limit <= self.last_at - self.best_at

    def better(self, at: int, loss: float) -> bool:
        """Count a validation; returns whether it is better than all before it (NaN never is)."""
        if self.over:
            return False
        self.last_at = at
        if math.isnan(loss) or (self.loss is not None and loss >= self.loss):
            return False
        self.loss, self.best_at = loss, at
        return True

    def state_dict(self) -> State:
        """Return everything but the limit, JSON-able."""
        return {"loss": self.loss, "best_at": self.best_at, "last_at": self.last_at}

    def load_state_dict(self, state: State) -> None:
        """Take up what `state_dict` returned."""
        for name, value in state.items():
            setattr(self, name, value)


@dataclass(slots=True)
class Best:
    """The weights and buffers that `layers` had at the best validation."""

    layers: nn.Module
    patience: Patience
    restoring: bool = False
    """Whether the RESTORE marker is on its way: no activation may be handled."""
    weights: State = field(default_factory=dict)
    """Empty before the first validation."""
    _under_way: deque[State] = field(default_factory=deque)
    """Copies for the validations whose markers are on their way."""

    def judge(self, at: int, loss: float, weights: State | None = None) -> None:
        """Count a validation with this loss; keep `weights`, by default those of now, if it is the best."""
        if self.patience.better(at, loss):
            self.weights = copied(self.layers.state_dict()) if weights is None else weights

    def take_up(self) -> None:
        """Load the best weights into the layers, if there was a validation."""
        if self.weights:
            self.layers.load_state_dict(self.weights)

    def went_down(self, marker: Marker) -> None:
        """Called when a marker goes down, behind a validation or the last training batch."""
        if marker.kind in EVALUATIONS:
            self._under_way.append(copied(self.layers.state_dict()))
        elif marker.kind is MarkerKind.RESTORE:
            self.restoring = True

    def came_back(self, marker: Marker) -> None:
        """Called when a marker is back, with the result of a validation or at the end of training."""
        if marker.kind in EVALUATIONS:
            self.judge(marker.step, marker.body["result"]["test_loss"], self._under_way.popleft())
        elif marker.kind is MarkerKind.RESTORE:
            self.take_up()
            self.restoring = False

    def state_dict(self) -> State:
        """Return what a part of a checkpoint must hold when its marker is back."""
        return {"best": self.weights, "patience": self.patience.state_dict()}

    def load_state_dict(self, state: State) -> None:
        """Take up what `state_dict` returned, if the part was made with validations."""
        if "best" in state:
            self.weights = copied(state["best"])
            self.patience.load_state_dict(state["patience"])
