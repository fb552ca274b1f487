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

from workers.told import FAILURE_FILE, what_was_told

if TYPE_CHECKING:
    from workers.supervise import Guard


def work(guard: Guard) -> None:
    """Read the job from our own launcher's file and be one of its ranks."""
    from launch.job import start_rank

    config, task = pickle.loads(Path(sys.argv[1]).read_bytes())
    start_rank(guard, config, task)


def bad_input() -> bool:
    """Whether the job has ended before by what the user must mend. Any other end is forgotten."""
    file = Path(os.environ[FAILURE_FILE])
    if what_was_told(file)[1] == 2:
        return True
    if os.environ["LOCAL_RANK"] == "0":
        file.unlink(missing_ok=True)
    return False


if __name__ == "__main__":
    if bad_input():
        sys.exit(2)
    from workers.supervise import Guard, leave

    leave(Guard().run(work))
