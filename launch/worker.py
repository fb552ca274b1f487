"""One rank of a job that `launch.local` starts: `python -m launch.worker JOB`, JOB a pickled job."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

from launch.job import run_rank
from workers.supervise import Guard, leave


def work(guard: Guard) -> None:
    """Read the job from our own launcher's file and be one of its ranks."""
    guard.meet(60.0)
    config, task = pickle.loads(Path(sys.argv[1]).read_bytes())
    run_rank(guard, config, task)


if __name__ == "__main__":
    leave(Guard().run(work))
