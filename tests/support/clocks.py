"""Clocks that tick when told."""

from __future__ import annotations


class Clock:
    """Shows `now`, which `tick` seconds pass between two looks."""

    def __init__(self, tick: float = 0.0) -> None:
        self.now = 0.0
        self.tick = tick

    def __call__(self) -> float:
        self.now += self.tick
        return self.now
