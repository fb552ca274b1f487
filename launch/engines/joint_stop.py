"""The ranks of a baseline stop together when a signal interrupts them.

rank 0   signal at step 40: publishes 40 ─ 41 ─ 42 (reads 40, 41) ─ 43 ─ 44 ─ stops
rank 1            signal at step 41: publishes 41 ─ 42 (reads 40, 41) ─ 43 ─ 44 ─ stops

Where they go through every step together, none is more than a step ahead of another. When a rank has
published its step, every other one reads it before it has trained MARGIN steps more, so all stop after the
same step.

Ranks that train independently only meet at evaluations. None may stop while another waits for it there:

rank 0   signal at step 90: publishes 90 ─ ... ─ 99 ─ evaluation due: waits ─ reads 40: stops
rank 1   signal at step 40: publishes 40, reads 90 ─ 41 ─ ... ─ 93 ─ stops
"""

from __future__ import annotations

import time

from workers.coordination.rendezvous import Rendezvous
from workers.coordination.store_connection import POLL_INTERVAL_S
from workers.failure.interruption import Interruption

MARGIN = 3
"""Steps from the last that a rank has published to the end."""


class JointStop:
    """Whether this rank should stop because of a signal. Without one, no rank reads anything, and independent
    ranks publish at which evaluation they meet."""

    def __init__(self, rendezvous: Rendezvous, interruption: Interruption) -> None:
        self._rendezvous, self._interruption = rendezvous, interruption
        self._keys = [f"interrupted at/{rank}" for rank in range(rendezvous.world)]
        self._meetings = [f"meets at/{rank}" for rank in range(rendezvous.world)]
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

    def is_due_before_meeting(self, steps: int) -> bool:
        """Return whether training ends in place of an evaluation at which independent ranks would meet.

        After a signal it waits until all ranks would answer the same, at most until the signal's deadline.
        """
        if self._rendezvous.world > 1:
            self._rendezvous.publish(self._meetings[self._rendezvous.rank], steps)
        while (due := self.peek_before_meeting(steps)) is None:
            time.sleep(POLL_INTERVAL_S)
        return due

    def peek_before_meeting(self, steps: int) -> bool | None:
        """Return what `is_due_before_meeting` does, or None while another rank may still stop before it."""
        if self.is_due(steps):
            return True
        if not self._published or self._last is not None:
            return False
        published = self._rendezvous.peek_all(self._keys)
        meeting = self._rendezvous.peek_all(self._meetings)
        others = [rank for rank, key in enumerate(self._keys) if key not in published]
        met = others and all(meeting.get(self._meetings[rank], -1) >= steps for rank in others)
        return False if met else None
