"""Delayed gradients: the backward waits for the target, the stage meanwhile goes on."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from dni_async.messages import TargetGradient
from dni_async.rules.base import Rule
from dni_async.rules.staleness import Staleness
from dni_async.rules.stash import Stash, Waiting
from dni_async.state.state_dict import State


class DelayedRule(Rule):
    """Rule `delayed`: the exact gradient at the weights of the forward, applied to those of now.

    DDG (Huo et al. 2018, "Decoupled parallel backpropagation with convergence guarantee", algorithm 1),
    with the weights of the forward stashed, as PipeDream does without a flush (Narayanan et al. 2019, 3.3).

        batch         7     8     9      7        10    8
                      fwd   fwd   fwd    target   fwd   target
        weights       v     v     v      of v     v+1   of v      staleness: version now - then, here 0, 1
        stash (3)     7     7,8   7,8,9  8,9      8-10  9,10      full at 9: no activation until a target

    With room for one batch this is sequential backprop, to the bit. No stage need wait for long if there is
    room for as many batches as there are stages from this one to the loss, itself included: so many
    activations DDG keeps, and so many weights PipeDream.
    """

    def __init__(self, capacity: int) -> None:
        self.stash = Stash(capacity)
        self._staleness = Staleness()

    def gradient(self, step: int, version: int, h: Tensor, y: Tensor) -> None:
        """Not now: the target will be it."""

    def resume(self, target: TargetGradient, version: int) -> Waiting | None:
        """The batch whose gradient has come; None if the stage goes on without it. Raises StageError when a
        target got lost."""
        batch = self.stash.pop(target.step)
        if batch is None or target.empty:
            return None
        self._staleness.add(version - batch.version)
        return batch

    def stats(self) -> dict[str, Any]:
        """Staleness, and the most bytes that the stash held."""
        return self._staleness.stats() | {"held_bytes": self.stash.most_bytes}

    def state_dict(self) -> State:
        """The counts. A batch that waits is a graph and cannot be kept: none may."""
        assert not len(self.stash), f"{len(self.stash)} batches wait for their gradient"
        return {"staleness": self._staleness.state_dict(), "most_bytes": self.stash.most_bytes}

    def load_state_dict(self, state: State) -> None:
        """Count on from there."""
        self._staleness.load_state_dict(state["staleness"])
        self.stash.most_bytes = state["most_bytes"]
