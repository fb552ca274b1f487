"""What each rank did last, in a file of the local launcher, which reads it when a rank was killed.

bytes   0 to 255   "stage 0 (rank 0), after step 72, while writing the results"     by rank 0
bytes 256 to 511   "stage 1 (rank 1), after step 72, waiting"                       by rank 1

A rank writes at its start, with every heartbeat, and before it writes its results. Imports no torch, which
takes seconds.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

ACTIVITY_FILE = "DNI_ASYNC_ACTIVITY_FILE"
"""Environment variable with the path of the file, set by the local launcher."""
_RECORD_BYTES = 256


def write_activity(rank: int, activity: str) -> None:
    """Write what this rank does, if a launcher wants to know."""
    if path := os.environ.get(ACTIVITY_FILE):
        record = activity.encode()[:_RECORD_BYTES].ljust(_RECORD_BYTES)
        with contextlib.suppress(OSError):  # the launcher, whose file it is, has just died
            descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.pwrite(descriptor, record, rank * _RECORD_BYTES)
            finally:
                os.close(descriptor)


def read_activity(path: Path, rank: int) -> str:
    """What the rank wrote last; that it has not begun if it wrote nothing."""
    with contextlib.suppress(OSError):
        records = path.read_bytes()
        record = records[rank * _RECORD_BYTES : (rank + 1) * _RECORD_BYTES].decode(errors="ignore")
        if activity := record.strip("\0 "):
            return activity
    return f"rank {rank}, before the first step"
