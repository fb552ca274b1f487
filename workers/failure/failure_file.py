"""The line that ends a job: printed, and left in a file for the launcher and for those it starts anew.

(Without torch, which takes seconds to import.)
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from pathlib import Path

FAILURE_FILE = "DNI_ASYNC_FAILURE_FILE"
"""Environment variable by which the local launcher names a file for the line."""

STDOUT_CLOSED = 128 + signal.SIGPIPE
"""Exit status of a job whose standard output has lost its reader; its line is empty."""


def tell(line: str, status: int = 1) -> None:
    """Print the line that ends the job with that exit status, and leave both for a launcher that asked.

    An empty line is not printed.
    """
    with contextlib.suppress(BrokenPipeError):  # nobody reads it
        if line:
            print(f"dni-async: {line}", file=sys.stderr, flush=True)
    if path := os.environ.get(FAILURE_FILE):
        try:
            Path(path).write_text(f"{status} {line}")
        except OSError:
            pass  # it was printed


def already_reported() -> bool:
    """Whether a process of this job has told a launcher that asked."""
    path = os.environ.get(FAILURE_FILE)
    return path is not None and read_failure(Path(path))[1] != 0


def read_failure(path: Path) -> tuple[str, int]:
    """The line in such a file and the exit status; ("", 0) when nothing was told."""
    try:
        status, _, line = path.read_text().partition(" ")
        return line, int(status)
    except (OSError, ValueError):
        return "", 0
