"""Train one task with one engine: the entry for torchrun, and for people without it.

torchrun --standalone --nproc-per-node 2 -m launch.train --task mnist-fcn --rule cdni --out runs/a
python -m launch.train --stages 2 --task mnist-fcn --rule cdni --out runs/a     (the same, one host)
"""

from __future__ import annotations

import os
import sys

from dni_async.errors import UserError
from launch.cli import parse
from launch.config.recurrent import SequenceConfig, names_sequence_task
from launch.config.train import TrainConfig
from launch.job.rank_job import start_rank
from launch.local.launcher import run_local
from launch.recurrent.train import run_sequences
from tasks.registry import create
from workers.failure.rank_runner import RankRunner, leave


def work(runner: RankRunner) -> None:
    """Parse the command line and be one rank, or start as many ranks as were asked for."""
    if names_sequence_task(sys.argv[1:]):
        run_sequences(runner, parse(SequenceConfig, "launch.train"))
        return
    under_torchrun = "RANK" in os.environ
    try:
        config = parse(TrainConfig, "launch.train")
        if under_torchrun and config.max_restarts:
            raise UserError(f"max-restarts is {config.max_restarts}; under torchrun give it to torchrun")
        task = create(config.task, config.task_args)
    except UserError:
        if under_torchrun:
            runner.meet(60.0)  # one rank alone complains about the command line
        raise
    alone = config.stages <= 1 and not config.port and not config.max_restarts
    if under_torchrun or alone:
        start_rank(runner, config, task)
    else:
        run_local(config, task)


def main() -> None:
    """Exit status 0; 2 for bad input; 1 when the run failed; 130 or 143 when it was stopped."""
    leave(RankRunner().run(work))


if __name__ == "__main__":
    main()
