"""One line says why a job ends: that of the first rank that fails, printed by rank 0.

rank 2   fails: publishes its line ─ waits ─────► it was printed: ends
rank 1            its peer is gone: another line is published already ──► ends
rank 0   polls ── polls ── prints ───────────────► its peer is gone, too: ends

If rank 0 is dead or stopped, rank 2 prints the line itself after REPORT_TIMEOUT_S.
"""

from __future__ import annotations

import threading
import time

from workers.coordination.rendezvous import Rendezvous
from workers.failure.failure_file import report_failure

REPORT_TIMEOUT_S = 3.0
"""How long a failed rank waits for rank 0 to print."""
POLL_INTERVAL_S = 0.05


class FailureReporter:
    """This rank's part in reporting why the job ends. May be used by any thread."""

    def __init__(self, rendezvous: Rendezvous) -> None:
        self.job = rendezvous.with_own_connection(timeout=REPORT_TIMEOUT_S)
        self._lock = threading.Lock()  # the process must not end while another of its threads prints

    def report(self, line: str, status: int) -> None:
        """Report that this rank has failed.

        Returns when the user has been shown why the job ends: by this line, or by that of a faster rank.
        """
        self.job.publish_first("failure", [line, status])
        end = time.monotonic() + REPORT_TIMEOUT_S
        while self.job.rank and not self.job.peek("failure_printed") and time.monotonic() < end:
            if 0 in self.job.gone_ranks():
                break
            time.sleep(POLL_INTERVAL_S)
        self.print_pending()

    def print_pending(self) -> None:
        """Print why the job ends if a rank has reported it and nobody has printed it yet."""
        with self._lock:
            failure = self.job.peek("failure")
            if failure is not None and self.job.claim("failure_printer"):
                report_failure(*failure)
                self.job.publish("failure_printed", True)
