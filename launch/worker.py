"""One rank of a job that `launch.local` starts: `python -m launch.worker JOB`, JOB a pickled job.

Before torch is imported, which takes seconds, a rank that is started anew looks whether that makes sense:

    start ─ bad input: status 2, told ─ restart: still bad, status 2 ─ restart: ...    without torch
    start ─ killed ─ restart: goes on
"""

from __future__ import annotations

import os
import pickle
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from workers.told import FAILURE_FILE, NOBODY_READS, what_was_told

if TYPE_CHECKING:
    from workers.supervise import Guard


def work(guard: Guard) -> None:
    """Read the job from our own launcher's file and be one of its ranks."""
    from launch.job import start_rank

    config, task = pickle.loads(Path(sys.argv[1]).read_bytes())
    start_rank(guard, config, task)


def in_vain() -> int:
    """The exit status of a job that has ended before as it would again: by what the user must mend, or as
    nobody reads what it prints. Any other end is forgotten (0)."""
    file = Path(os.environ[FAILURE_FILE])
    _, status = what_was_told(file)
    if status in (2, NOBODY_READS):
        return status
    if os.environ["LOCAL_RANK"] == "0":
        file.unlink(missing_ok=True)
    return 0


if __name__ == "__main__":
    if status := in_vain():
        sys.exit(status)
    from workers.supervise import Guard, leave

    leave(Guard().run(work))
