"""The ranks of a baseline stop after the same batch when a signal interrupts them.

rank 0   signal at step 40: publishes 40 ─ 41 ─ 42 (reads 40, 41) ─ 43 ─ 44 ─ stops
rank 1            signal at step 41: publishes 41 ─ 42 (reads 40, 41) ─ 43 ─ 44 ─ stops

They go through every step together, so that none is more than a step ahead of another. When a rank has
published its step, every other one reads it before it has trained MARGIN steps more.
"""

from __future__ import annotations

from workers.coordination.rendezvous import Rendezvous
from workers.failure.interruption import Interruption

MARGIN = 3
"""Steps from the last that a rank has published to the end."""


class JointStop:
    """Whether this rank should stop because of a signal. Without one, no rank publishes or reads anything."""

    def __init__(self, rendezvous: Rendezvous, interruption: Interruption) -> None:
        self._rendezvous, self._interruption = rendezvous, interruption
        self._keys = [f"interrupted at/{rank}" for rank in range(rendezvous.world)]
        self._published = False
        self._last: int | None = None

    def is_due(self, steps: int) -> bool:
        """Return whether training ends now, after so many steps."""
        if self._interruption.signum is None:
            return False
        if self._rendezvous.world == 1:
            return True
        if not self._published:
            self._rendezvous.publish(self._keys[self._rendezvous.rank], steps)
            self._published = True
        if self._last is None:
            published = self._rendezvous.peek_all(self._keys)
            if len(published) == self._rendezvous.world:
                self._last = max(published.values()) + MARGIN
        return self._last is not None and steps >= self._last
