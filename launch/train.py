"""Train one task with one engine: the entry for torchrun, and for people without it.

torchrun --standalone --nproc-per-node 2 -m launch.train --task mnist-fcn --rule cdni --out runs/a
python -m launch.train --stages 2 --task mnist-fcn --rule cdni --out runs/a     (the same, one host)
"""

from __future__ import annotations

import os
import sys

from dni_async.errors import UserError
from launch.cli import parse
from launch.config import TrainConfig
from launch.job import start_rank
from launch.local import run_local
from launch.through_time.config import SequenceConfig, names_sequence_task
from launch.through_time.train import run_sequences
from tasks.registry import create
from workers.supervise import Guard, leave


def work(guard: Guard) -> None:
    """Parse the command line and be one rank, or start as many ranks as were asked for."""
    if names_sequence_task(sys.argv[1:]):
        run_sequences(guard, parse(SequenceConfig, "launch.train"))
        return
    under_torchrun = "RANK" in os.environ
    try:
        config = parse(TrainConfig, "launch.train")
        if under_torchrun and config.max_restarts:
            raise UserError(f"max-restarts is {config.max_restarts}; under torchrun give it to torchrun")
        task = create(config.task, config.task_args)
    except UserError:
        if under_torchrun:
            guard.meet(60.0)  # one rank alone complains about the command line
        raise
    alone = config.stages <= 1 and not config.port and not config.max_restarts
    if under_torchrun or alone:
        start_rank(guard, config, task)
    else:
        run_local(config, task)


def main() -> None:
    """Exit status 0; 2 for bad input; 1 when the run failed; 130 or 143 when it was stopped."""
    leave(Guard().run(work))


if __name__ == "__main__":
    main()
