"""One rank of a job of the local launcher: `python -m launch.local.rank_main JOB`, JOB a file of `job_file`.

Before torch is imported, which takes seconds, a rank asks to end with its launcher, and a restarted rank
checks whether the job would only fail again:

    start ─ bad input: status 2, reported ─ restart: still bad, status 2 ─ restart: ...    without torch
    start ─ killed ─ restart: goes on
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

from launch.local.wan import enter_own_host
from workers.failure.activity_file import write_activity
from workers.failure.failure_file import FAILURE_FILE, STDOUT_CLOSED, read_failure
from workers.failure.signals import exit_with_launcher


def final_status() -> int:
    """Return the exit status that a restart of this job would only repeat; 0 if it may succeed now.

    Bad input and a closed stdout stay as they are. Any other failure is removed from the failure file.
    """
    file = Path(os.environ[FAILURE_FILE])
    _, status = read_failure(file)
    if status in (2, STDOUT_CLOSED):
        return status
    if os.environ["LOCAL_RANK"] == "0":
        with contextlib.suppress(OSError):  # the launcher, whose file it is, has just died
            file.write_text("")
    return 0


if __name__ == "__main__":
    exit_with_launcher()
    enter_own_host()
    if status := final_status():
        sys.exit(status)
    write_activity(int(os.environ["RANK"]), f"rank {os.environ['RANK']}, before the first step")
    from launch.job.rank_job import start_rank
    from launch.local.job_file import read_job
    from workers.failure.rank_runner import RankRunner, run_command

    def _work(runner: RankRunner) -> None:
        config, task = read_job(Path(sys.argv[1]))  # written by our own launcher
        start_rank(runner, config, task)

    run_command(_work)
