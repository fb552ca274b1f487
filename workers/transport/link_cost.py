"""What messages cost, as `link_benchmark` has measured it.

sender    | send |                 wait for the credit            | send | ...
receiver         |-- latency --| receive |----------- credit -----|
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Line:
    """The seconds that something takes, as a straight line over the bytes of a message."""

    start: float
    per_byte: float

    def __call__(self, size: float) -> float:
        """Return the seconds for `size` bytes."""
        return self.start + self.per_byte * size


def fit(sizes: Sequence[int], seconds: Sequence[float]) -> Line:
    """Return the line through points (least squares of the relative errors); neither number is negative."""
    weights = [1 / max(s, 1e-9) ** 2 for s in seconds]
    total = sum(weights)
    x = sum(w * n for w, n in zip(weights, sizes, strict=True)) / total
    y = sum(w * s for w, s in zip(weights, seconds, strict=True)) / total
    spread = sum(w * (n - x) ** 2 for w, n in zip(weights, sizes, strict=True))
    both = sum(w * (n - x) * (s - y) for w, n, s in zip(weights, sizes, seconds, strict=True))
    slope = max(0.0, both / spread) if spread else 0.0
    return Line(max(0.0, y - slope * x), slope)


@dataclass(frozen=True, slots=True)
class LinkCost:
    """What a message costs on a link, by its bytes; see the diagram above."""

    send: Line
    latency: Line
    receive: Line
    credit: Line


@dataclass(frozen=True, slots=True)
class Ping:
    """The costs of messages on each transport, and of a ring's steps."""

    links: dict[str, LinkCost]
    """By transport."""
    all_reduce: Line
    """Seconds of one step of a ring, by the bytes that it sends."""
    arrival: dict[str, list[float]]
    """By transport and size: median seconds from the call of `send` until the receiver can read it."""
