"""The line that ends a job: printed, and left in a file for the launcher and for restarted ranks.

"1 stage 0 (rank 0), at step 7: ..."   status and line of a failure
"0 finished"                           all results are written
""                                     the job runs, or was killed

Imports no torch, which takes seconds.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from pathlib import Path

FAILURE_FILE = "DNI_ASYNC_FAILURE_FILE"
"""Environment variable with the path of the file, set by the local launcher."""

STDOUT_CLOSED = 128 + signal.SIGPIPE
"""Exit status of a job whose standard output has no reader any more; its line is empty."""


_FINISHED = "finished"


def report_success() -> None:
    """Write to the file that the job has written all its results."""
    _write(f"0 {_FINISHED}")


def has_finished(path: Path) -> bool:
    """Whether a job has written all its results."""
    return read_failure(path) == (_FINISHED, 0)


def report_failure(line: str, status: int = 1) -> None:
    """Print the line that ends the job (unless it is empty) and write it with the exit status to the file.

    Control characters are removed: the line may quote what a stranger sent.
    """
    line = "".join(character if character.isprintable() else " " for character in line)
    with contextlib.suppress(BrokenPipeError):  # nobody reads it
        if line:
            print(f"dni-async: {line}", file=sys.stderr, flush=True)
    _write(f"{status} {line}")


def _write(text: str) -> None:
    if path := os.environ.get(FAILURE_FILE):
        with contextlib.suppress(OSError):
            Path(path).write_text(text)


def already_reported() -> bool:
    """Whether a process of this job has written the failure file."""
    path = os.environ.get(FAILURE_FILE)
    return path is not None and read_failure(Path(path))[1] != 0


def read_failure(path: Path) -> tuple[str, int]:
    """Line and exit status in a failure file; ("", 0) if nothing was reported."""
    try:
        status, _, line = path.read_text().partition(" ")
        return line, int(status)
    except (OSError, ValueError):
        return "", 0
