"""Why a job ends, in one line: said by the first rank that fails, printed by rank 0.

rank 2   fails: says why ─ waits ──────────────► it was printed: ends
rank 1            its peer is gone: too late to say anything ──► ends
rank 0   looks ── looks ── prints ───────────────► its peer is gone, too: ends
rank 0 is dead or stopped: rank 2 has waited in vain, and prints
"""

from __future__ import annotations

import threading
import time

from workers.coordination.rendezvous import Rendezvous
from workers.failure.failure_file import tell

PATIENCE = 3.0
"""Seconds that a failed rank waits for rank 0 to print."""
LOOK = 0.05
"""Seconds between two looks whether it has."""


class FailureReport:
    """What the ranks of one job say and print in the end. For any thread."""

    def __init__(self, rendezvous: Rendezvous) -> None:
        self._job = rendezvous.another(timeout=PATIENCE)
        self._lock = threading.Lock()  # the process must not end while another thread of it prints

    def say(self, line: str, status: int) -> None:
        """This rank has failed. Returns when the user has been told why the job ends: this line, or that of a
        rank that was faster."""
        self._job.publish_first("verdict", [line, status])
        end = time.monotonic() + PATIENCE
        while self._job.rank and not self._told() and time.monotonic() < end:
            if 0 in self._job.gone_ranks():
                break
            time.sleep(LOOK)
        self.tell()

    def tell(self) -> None:
        """Print why the job ends, if some rank has said so and nobody has printed it."""
        with self._lock:
            verdict = self._job.peek("verdict")
            if verdict is not None and self._job.claim("telling"):
                tell(*verdict)
                self._job.publish("told", True)

    def _told(self) -> bool:
        return self._job.peek("told") is not None
