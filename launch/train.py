"""Train one task with one engine: the entry for torchrun, and for people without it.

torchrun --standalone --nproc-per-node 2 -m launch.train --task mnist-fcn --rule cdni --out runs/a
python -m launch.train --stages 2 --task mnist-fcn --rule cdni --out runs/a     (the same, one host)
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress

from dni_async.errors import UserError
from launch.config.command_line import parse, task_name
from launch.config.recurrent import SequenceConfig
from launch.config.train import TrainConfig
from launch.job.rank_job import start_rank
from launch.local.launcher import StoppedAtEnd, run_local
from launch.recurrent.train import run_sequences
from tasks.registry import create, find
from tasks.sequence.base import SequenceTask
from workers.failure.rank_runner import RankRunner, run_command


def work(runner: RankRunner) -> None:
    """Run one rank under torchrun or for one stage; otherwise start the ranks of the job here."""
    under_torchrun = "RANK" in os.environ
    try:
        config = configuration(sys.argv[1:])
        if isinstance(config, SequenceConfig):
            run_sequences(runner, config)
            return
        if under_torchrun and config.recovery.max_restarts:
            raise UserError(
                f"max-restarts is {config.recovery.max_restarts}; under torchrun give it to torchrun"
            )
        task = create(config.task.name, config.task.task_args)
    except UserError:
        if under_torchrun:
            runner.join(60.0)  # so that one rank alone prints the line
        raise
    alone = config.partition.stages <= 1 and not config.runtime.port and not config.recovery.max_restarts
    if under_torchrun or alone:
        start_rank(runner, config, task)
    else:
        with suppress(StoppedAtEnd):
            run_local(config, task)


def configuration(arguments: Sequence[str]) -> TrainConfig | SequenceConfig:
    """Parse the options of the kind of task that `--task` names. Raises UserError."""
    name = task_name(arguments)
    if name is not None and issubclass(find(name), SequenceTask):
        return parse(SequenceConfig, "launch.train", arguments)
    return parse(TrainConfig, "launch.train", arguments)


if __name__ == "__main__":
    run_command(work)
