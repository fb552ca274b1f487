"""What a plan says of one engine, and how far that was from a real run."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True, kw_only=True)
class Prediction:
    """One engine in so many stages; numbers are None where `error` says why there are none."""

    engine: str
    stages: int
    samples_per_s: float | None = None
    speedup: float | None = None
    """Over backprop in one process."""
    bubble: float | None = None
    """Share of time in which the average stage waits."""
    memory_bytes: int | None = None
    """Of the stage that holds most: weights, gradients, optimizer, activations, messages."""
    staleness: float | None = None
    """Of stage 0, in its updates."""
    cut: list[int] = field(default_factory=list)
    micro_batches: int | None = None
    error: str | None = None


@dataclass(slots=True, kw_only=True)
class Check:
    """One engine, predicted and measured, in samples/s."""

    engine: str
    stages: int
    emulated: bool
    predicted: float | None
    measured: float | None
    reason: str = ""
    """Why a number is missing."""

    @property
    def error(self) -> float | None:
        """Error of the prediction, as a share of what was measured."""
        return self.predicted / self.measured - 1 if self.predicted and self.measured else None
