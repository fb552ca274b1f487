"""The interface of a rule: how one stage gets the gradient at its output."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.optim import Optimizer
from typing_extensions import Self

from dni_async.contract import wrong_value
from dni_async.messages import TargetGradient
from dni_async.nonfinite import AT_ONCE, FiniteChecks
from dni_async.rules.capabilities import RuleCapabilities
from dni_async.rules.context import RuleContext
from dni_async.state.state_dict import State


class Rule(ABC):
    """Decides what a stage does with the gradient dL/dh at its output h (B, ...).

    A stage calls the rule in this order. Only `gradient` must be defined; every other method has a default
    that suits a rule which learns at once and remembers nothing.

        training batch         has_room ─ forward ─ take_extras ─ gradient ─┬─ (backward) ─ before_update
                                                                              │    ─ (update)
                                                                              └─ None: postpone
        target gradient        take_target, or discard where it has no rows
            of a kept graph    resume ─ (backward) ─ before_update ─ (update)
        evaluation batch       evaluate
        marker                 check_answered; on the last stage result, reset_evaluation; new_epoch

    A rule knows nothing of layers, queues or ranks.
    """

    capabilities: ClassVar[RuleCapabilities] = RuleCapabilities()

    computes_loss: ClassVar[bool] = False
    """Whether this is the rule of the last stage."""

    optimizer: Optimizer | None = None
    """Of the rule's own network, if it has one."""

    checks: FiniteChecks = AT_ONCE
    """By which it looks for NaN and infinite values; a stage sets its own."""

    phase: ClassVar[str] = "sg"
    """The name of the rule's own work where a stage's time is broken down into phases."""

    @classmethod
    def build(cls, context: RuleContext) -> Self:
        """Return the rule of one stage of a job."""
        return cls()

    @property
    def has_room(self) -> bool:
        """Whether the stage may take one more training batch; if not, a target must come first."""
        return True

    @property
    def trust(self) -> float:
        """What targets of this stage carry as `TargetGradient.trust`."""
        return 1.0

    @property
    def rate(self) -> float:
        """The factor of the stage's learning rate for its next update."""
        return 1.0

    def forward(self, layers: nn.Module, x: Any) -> Any:
        """Return the stage's output for the training batch x: (B, ...) each, or trees of tensors."""
        return layers(x)

    def take_extras(self, extras: tuple[Tensor, ...]) -> None:
        """Called before `gradient`, with the tensors of the output beside h (see `boundary`); often none."""

    @abstractmethod
    def gradient(self, step: int, version: int, h: Tensor, y: Any) -> Tensor | None:
        """Return the gradient of the mean loss at h, detached; None if only the target will bring it.

        Args:
            step: number of the batch.
            version: optimizer steps that the stage has taken so far.
            h: (B, ...), detached.
            y: (B, ...) labels, or the tree of the task's targets.

        Raises:
            NonFinite: a gradient or a loss has NaN or infinite values.
        """

    def take_target(self, target: TargetGradient, version: int) -> None:
        """Learn from the target gradient of an earlier batch; the stage has taken `version` steps by now.

        Raises NonFinite if a gradient has NaN or infinite values.
        """

    def discard(self, step: int) -> None:
        """Forget the batch `step`: no target will come for it."""

    def postpone(self, step: int, version: int, x: Tensor, h: Tensor) -> None:
        """Keep a batch whose `gradient` was None, with its graph from x (B, ...) to h (B, ...)."""
        raise wrong_value(self, "gradient", None, "a gradient, as it cannot postpone a batch")

    def postpone_skipped(self, step: int) -> None:
        """Expect the target of a batch that the stage skipped (only with `keeps_graphs`)."""

    def resume(self, target: TargetGradient, version: int) -> tuple[Tensor, Tensor] | None:
        """Return x (B, ...) and h (B, ...) of the postponed batch whose target has come; None if it is to be
        skipped (only with `keeps_graphs`)."""
        return None

    def before_update(self) -> None:
        """Called when the stage's weights are about to change."""

    def check_answered(self, steps: int) -> None:
        """Raises StageError if a target of the batches before number `steps` has not come."""

    def evaluate(self, output: Any, y: Any) -> None:
        """Count one evaluation batch: output (B, ...), labels y (B, ...), or trees; without autograd."""

    def result(self) -> dict[str, Any]:
        """Return loss and scores, JSON-able (last stage only)."""
        return {}

    def reset_evaluation(self) -> None:
        """Start the means over the evaluation set over."""

    def new_epoch(self) -> None:
        """Start the means over the epoch over."""

    def stats(self) -> dict[str, Any]:
        """Return what a report shows of this rule, JSON-able."""
        return {}

    def replay_bytes(self, h: Tensor, y: Any) -> int:
        """Return the bytes of a full replay window of batches like h (B, ...) and y (B, ...)."""
        return 0

    def counters(self) -> State:
        """Return what the rule counts, without tensors: small enough to be saved after every message."""
        return {}

    def restore_counters(self, counters: State) -> None:
        """Take up the counters of a process that has died.

        Batches that wait for a target are forgotten: they went through other weights.
        """

    def state_dict(self) -> State:
        """Return what a resumed run needs, batches that wait for their target included."""
        return {}

    def load_state_dict(self, state: State) -> None:
        """Take up what `state_dict` returned."""
