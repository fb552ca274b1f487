"""One rank of a job of the local launcher: `python -m launch.local.rank_main JOB`, JOB a pickled job.

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

from workers.failure.failure_file import FAILURE_FILE, STDOUT_CLOSED, read_failure

if TYPE_CHECKING:
    from workers.failure.rank_runner import RankRunner


def work(runner: RankRunner) -> None:
    """Read the job from our own launcher's file and be one of its ranks."""
    from launch.job.rank_job import start_rank

    config, task = pickle.loads(Path(sys.argv[1]).read_bytes())
    start_rank(runner, config, task)


def in_vain() -> int:
    """The exit status of a job that has ended before as it would again: by what the user must mend, or as
    nobody reads what it prints. Any other end is forgotten (0)."""
    file = Path(os.environ[FAILURE_FILE])
    _, status = read_failure(file)
    if status in (2, STDOUT_CLOSED):
        return status
    if os.environ["LOCAL_RANK"] == "0":
        file.unlink(missing_ok=True)
    return 0


if __name__ == "__main__":
    if status := in_vain():
        sys.exit(status)
    from workers.failure.rank_runner import RankRunner
    from workers.failure.signals import exit_process

    exit_process(RankRunner().run(work))
