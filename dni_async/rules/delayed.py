"""Delayed gradients: the backward waits for the target, while the stage takes further batches."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from typing_extensions import Self, override

from dni_async.messages import TargetGradient
from dni_async.rules.base import Rule
from dni_async.rules.capabilities import RuleCapabilities
from dni_async.rules.context import RuleContext
from dni_async.rules.staleness import Staleness
from dni_async.rules.stash import Stash
from dni_async.rules.weight_prediction import WeightPrediction
from dni_async.state.state_dict import State


class DelayedRule(Rule):
    """Rule `delayed`: the exact gradient at the weights of the forward, applied to those of now.

    DDG (Huo et al. 2018, "Decoupled parallel backpropagation with convergence guarantee", algorithm 1),
    with the weights of the forward stashed, as PipeDream does without a flush (Narayanan et al. 2019, 3.3).

        batch         7     8     9      7        10    8
                      fwd   fwd   fwd    target   fwd   target
        weights       v     v     v      of v     v+1   of v      staleness: version now - then, here 0, 1
        stash (3)     7     7,8   7,8,9  8,9      8-10  9,10      full at 9: no activation until a target

    With room for one batch this is sequential backprop, to the bit. No stage waits for long if it has room
    for as many batches as there are stages from this one to the loss, itself included: DDG keeps so many
    activations, and PipeDream so many weights.

    Args:
        capacity: batches that may wait.
        predicted_updates: updates by which weights are extrapolated for a forward (see `WeightPrediction`);
            0 for none.
    """

    capabilities = RuleCapabilities(
        uses_labels=False,
        keeps_graphs=True,
        resumable=True,
        skips_nonfinite=True,
        planned=True,
        plot_style=("#d55e00", "P"),
    )

    def __init__(self, capacity: int, predicted_updates: int = 0) -> None:
        self.stash = Stash(capacity)
        self.prediction = WeightPrediction(predicted_updates) if predicted_updates else None
        self._staleness = Staleness()

    @classmethod
    @override
    def build(cls, context: RuleContext) -> Self:
        return cls(context.stash_capacity, context.predicted_updates)

    @property
    @override
    def has_room(self) -> bool:
        return self.stash.has_room

    @override
    def forward(self, layers: nn.Module, x: Tensor) -> Tensor:
        if self.prediction is None:
            return self.stash.forward(layers, x)
        with self.prediction.applied(layers):
            h = self.stash.forward(layers, x)
            self.stash.copy_weights()
        return h

    def gradient(self, step: int, version: int, h: Tensor, y: Any) -> None:
        """Return None: the gradient arrives later, as the target."""

    @override
    def postpone(self, step: int, version: int, x: Tensor, h: Tensor) -> None:
        self.stash.put(step, version, x, h)

    @override
    def postpone_skipped(self, step: int) -> None:
        self.stash.put_nothing(step)

    @override
    def resume(self, target: TargetGradient, version: int) -> tuple[Tensor, Tensor] | None:
        batch = self.stash.pop(target.step)
        if batch is None or (target.empty and batch.h.is_floating_point()):
            return None  # whole numbers have no gradient, so their target is always empty
        self._staleness.add(version - batch.version)
        return batch.x, batch.h

    @override
    def before_update(self) -> None:
        self.stash.before_update()
        if self.prediction:
            self.prediction.before_update()

    @override
    def check_answered(self, steps: int) -> None:
        self.stash.check_answered(steps)

    @override
    def stats(self) -> dict[str, Any]:
        return self._staleness.stats() | {"held_bytes": self.stash.most_bytes}

    @override
    def state_dict(self) -> State:
        assert not len(self.stash), f"{len(self.stash)} batches wait for their gradient"
        prediction = self.prediction.state_dict() if self.prediction else {}
        return {
            "staleness": self._staleness.state_dict(),
            "most_bytes": self.stash.most_bytes,
        } | prediction

    @override
    def load_state_dict(self, state: State) -> None:
        self._staleness.load_state_dict(state["staleness"])
        self.stash.most_bytes = state["most_bytes"]
        if self.prediction and "before" in state:
            self.prediction.load_state_dict(state)
