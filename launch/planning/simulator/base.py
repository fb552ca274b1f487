"""The costs that a simulation starts from, and the steady state that it ends with."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageCost:
    """Seconds of one message.

    sender    | send |                                             | (credit)
    under way        | wire |--- latency ---|                      |<- credit -|
    receiver                                | receive | work on it |
    """

    send: float = 0.0
    """The sender is busy with it."""
    wire: float = 0.0
    """The sender's wire is: its next message waits."""
    request: float = 0.0
    """If not 0, nothing is sent before the receiver waits for it, and so many seconds have passed since."""
    latency: float = 0.0
    """Nobody is: until the receiver can take it up."""
    receive: float = 0.0
    """The receiver is busy with taking it and giving it back."""
    credit: float = 0.0
    """From the receiver's giving it back until the sender may use the room again."""


FREE = MessageCost()


@dataclass(frozen=True, slots=True, kw_only=True)
class StageCost:
    """Seconds that one stage spends on one batch (or on one micro-batch of it)."""

    forward: float
    backward: float
    update: float = 0.0
    load: float = 0.0
    """Reading the batch (stage 0)."""
    predict: float = 0.0
    """A gradient at its output at once: SG network, or auxiliary head. Not paid by the last stage."""
    train: float = 0.0
    """Learning from a target gradient. Not paid by the last stage."""
    activation: MessageCost = FREE
    """What it sends downstream."""
    target: MessageCost = FREE
    """What it sends upstream."""


@dataclass(slots=True, kw_only=True)
class SteadyState:
    """The steady state of an engine."""

    period: float
    """Seconds from one batch to the next."""
    busy: list[float]
    """Seconds per batch in which each stage works."""
    staleness: list[float] = field(default_factory=list)
    """Optimizer steps of each stage between a batch's forward and its target, on average; 0 without."""
    in_flight: list[int] = field(default_factory=list)
    """Most activations that ever lay between each stage and the next."""
    held: list[int] = field(default_factory=list)
    """Most batches (or micro-batches) that each stage ever remembered at once, waiting for a gradient."""

    @property
    def bubble(self) -> float:
        """Share of time (0..1) in which the average stage waits."""
        return max(0.0, 1 - sum(self.busy) / len(self.busy) / self.period) if self.period else 0.0
