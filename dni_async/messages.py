"""What travels between stages.

    downstream  Activation, Marker             (towards the loss)
    upstream    TargetGradient, Marker(returning=True)

Tensors in a message are valid until the stage has handled it, because they may lie in the memory of the
transport. A stage copies what it keeps for longer.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from torch import Tensor

MAX_EXTRAS = 14
"""Most tensors that travel beside h and y."""


@dataclass(slots=True)
class Activation:
    """One batch on its way to the loss: a stage's output h and the labels that belong to it."""

    step: int
    """Number of the batch. Training batches count from 0 over the run, evaluation batches separately."""
    version: int
    """Optimizer steps the sender had taken when it made `h`."""
    h: Tensor
    """(B, ...) output of the stage upstream; for stage 0 the input batch."""
    y: Tensor
    """(B, ...) labels or real-valued targets."""
    train: bool = True
    """False for an evaluation batch: forward in eval mode, no update, no target gradient."""
    extras: tuple[Tensor, ...] = ()
    """Tensors of any shape that travel with the batch and get no gradient, at most `MAX_EXTRAS`: first those
    that belong to h, such as masks and ids, then labels other than y."""

    @property
    def empty(self) -> bool:
        """No rows: a stage upstream has skipped the batch, and all stages downstream skip it."""
        return not len(self.h)

    def emptied(self, h: Tensor) -> Activation:
        """Return the message without rows, and without extras, that takes the place of the one with
        h (B, ...)."""
        return Activation(self.step, self.version, h.detach()[:0], self.y[:0], self.train)


@dataclass(slots=True)
class TargetGradient:
    """dL/dh of one training batch, computed by the stage downstream; it trains the SG network."""

    step: int
    version: int
    """Optimizer steps the sender had taken when it made `grad`."""
    grad: Tensor
    """(B, ...) gradient of the mean loss, in the shape and type of the activation it answers; without rows
    for one of whole numbers, which has no gradient."""
    trust: float = 1.0
    """How well predictions from the sender's output to the loss agree with their targets: the product of
    their running cosines; 1 where nothing is predicted (see `--sg.gate`)."""

    @property
    def empty(self) -> bool:
        """No rows: there is nothing to learn from this batch."""
        return not len(self.grad)


class MarkerKind(IntEnum):
    """What a marker is for."""

    REPORT = 0
    """Collect progress."""
    EPOCH = 1
    """All training and evaluation batches of an epoch were sent before it."""
    STOP = 2
    """The last message. Its return proves that every target gradient has arrived."""
    EVALUATION = 3
    """The whole test set was sent before it, and the epoch goes on."""
    CHECKPOINT = 4
    """Every stage copies its state here. The return of the marker proves that all of them have."""
    RESTORE = 5
    """Training is over: every stage loads its best weights (see `early_stopping`). The test follows."""


EVALUATIONS = (MarkerKind.EPOCH, MarkerKind.EVALUATION)
"""Sent after the whole test set, or after the validation set if there is one."""


@dataclass(slots=True)
class Marker:
    """A control message: it goes down behind the activations, and back up behind the targets.

        stage 0   --A7--A8--EPOCH-->  stage 1   --A7--A8--EPOCH-->  stage 2 (loss)
                  <--T7--T8--EPOCH--            <--T7--T8--EPOCH--

    The last stage turns it round, and on the way back every stage adds its numbers to `body`. When stage 0
    has it back, every message that was sent before it has been handled.
    """

    kind: MarkerKind
    step: int
    """Training batches sent before this marker."""
    epoch: int
    returning: bool = False
    body: dict[str, Any] = field(default_factory=dict)
    """JSON-able; the last stage adds "result", stage i adds its counts under str(i)."""


Message = Activation | TargetGradient | Marker


def goes_upstream(message: Message) -> bool:
    """Whether this message leaves a stage towards stage 0."""
    return isinstance(message, TargetGradient) or (isinstance(message, Marker) and message.returning)
