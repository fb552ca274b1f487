"""The interface of what predicts a gradient: a synthesizer, an oracle, or a wrapper around either."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from typing_extensions import override

from dni_async.messages import TargetGradient
from dni_async.state.state_dict import State
from dni_async.synthesis.agreement import Agreement


class Predictor(ABC):
    """Predicts dL/dh at a stage's output h (B, ...), and learns when the target comes."""

    optimizer: Optimizer | None = None
    """Of the network that predicts, if there is one."""
    agreement: Agreement | None = None
    """Of predictions with their targets; None where they are exact."""

    @property
    def cosine(self) -> float:
        """The running cosine between predictions and their targets; 1 where predictions are exact."""
        return self.agreement.running_cosine if self.agreement else 1.0

    @abstractmethod
    def predict(self, step: int, version: int, h: Tensor, y: Any) -> Tensor:
        """Return the gradient of the mean loss at h for the batch `step`, in the shape of h.

        version: optimizer steps that the stage has taken so far.
        """

    @abstractmethod
    def take(self, target: TargetGradient) -> int | None:
        """Learn from a target; returns the `version` of its prediction, None if that is not known."""

    def discard(self, step: int) -> None:
        """Forget the batch `step`: no target will come for it."""

    def stats(self) -> dict[str, Any]:
        """Return what a report shows, JSON-able."""
        return {}

    def new_epoch(self) -> None:
        """Start the means that are reported over."""

    def replay_bytes(self, h: Tensor, y: Any) -> int:
        """Return the bytes of a full replay window of batches like h (B, ...) and y (B, ...)."""
        return 0

    def counters(self) -> State:
        """Return what is counted, JSON-able."""
        return {}

    def restore_counters(self, counters: State) -> None:
        """Take up the counters of a process that has died, and forget its predictions."""

    def state_dict(self) -> State:
        """Return what a resumed run needs, predictions that wait for their target included."""
        return {}

    def load_state_dict(self, state: State) -> None:
        """Take up what `state_dict` returned."""


class PredictorWrapper(Predictor):
    """Does what the predictor inside does; a subclass changes what it wants to."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor

    @override
    def take(self, target: TargetGradient) -> int | None:
        return self.predictor.take(target)

    @override
    def discard(self, step: int) -> None:
        self.predictor.discard(step)

    @override
    def stats(self) -> dict[str, Any]:
        return self.predictor.stats()

    @override
    def new_epoch(self) -> None:
        self.predictor.new_epoch()

    @override
    def counters(self) -> State:
        return self.predictor.counters()

    @override
    def restore_counters(self, counters: State) -> None:
        self.predictor.restore_counters(counters)
