"""What a rule is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor

from dni_async.messages import TargetGradient
from dni_async.state.state_dict import State


class Rule(ABC):
    """Gives one stage the gradient dL/dh at its output. Knows nothing of layers, queues or ranks."""

    wants_targets = True
    """Whether the stage downstream shall send target gradients."""

    updates = True
    """Whether the stage learns at all."""

    work = "sg"
    """What `gradient` and `take_target` are called where a stage's time is told apart."""

    @abstractmethod
    def gradient(self, step: int, version: int, h: Tensor, y: Tensor) -> Tensor | None:
        """dL/dh for the mean loss, in the shape of `h` (B, ...), detached, now; None: the target will be it.

        version: optimizer steps that the stage has taken so far. Raises NonFinite instead of giving, or
        learning from, a gradient or a loss that is.
        """

    def take_target(self, target: TargetGradient, version: int) -> None:
        """The target gradient of an earlier batch has arrived; the stage is at `version` now.

        Raises NonFinite instead of learning from one that is.
        """
        return

    def discard(self, step: int) -> None:
        """No target will come for this batch."""
        return

    def stats(self) -> dict[str, Any]:
        """What a report shows of this rule, JSON-able."""
        return {}

    def new_epoch(self) -> None:
        """Start the epoch's running means over."""
        return

    def counters(self) -> State:
        """What the rule counts, without tensors: small enough to be noted after every message."""
        return {}

    def restore_counters(self, counters: State) -> None:
        """Count on from the counters of a process that has died. The batches that waited there for their
        target are forgotten: the weights are not those that they were predicted with."""
        return

    def state_dict(self) -> State:
        """What the rule goes on from in a resumed run, batches that wait for their target included."""
        return {}

    def load_state_dict(self, state: State) -> None:
        """Go on from there."""
        return
