"""Real processes that start in milliseconds: forked off a server that has imported torch already.

The server imports this module, so what is imported here is there in every child.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch._dynamo  # noqa: F401  (an optimizer imports it)
import torch.distributed as dist

import launch.engines.backprop
import launch.engines.decoupled
import launch.job.rank_job
import launch.report.timeline_plot
import workers.transport.rpc  # noqa: F401
from launch.config.train import TrainConfig
from tasks.base import Task
from tests.support.waiting import until
from workers.failure.rank_runner import RankRunner, run_command

TEST_TIMEOUT_S = 60.0
"""Seconds after which a job should have ended."""


def context() -> ForkServerContext:
    """For all process tests: one server, one import of torch; it ends with the process that started it."""
    chosen = multiprocessing.get_context("forkserver")
    chosen.set_forkserver_preload(["tests.support.fork_server", "tests.support.forks"])
    return chosen


class Job:
    """The ranks of a job, without a launcher; a context manager that reaps them.

    before: the job that a launcher starts anew with this one. environment: more of it, for every rank.
    """

    def __init__(
        self,
        config: TrainConfig,
        task: Task,
        ranks: int,
        folder: Path,
        before: Job | None = None,
        **environment: str,
    ) -> None:
        self.folder = folder
        self.out = folder / "run"
        self.restart = before.restart + 1 if before else 0
        self._store = (
            before._store if before else dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
        )
        folder.mkdir(parents=True, exist_ok=True)
        self.max_restarts = config.recovery.max_restarts
        config = config.changed(out=str(self.out), quiet=True)
        self.ranks: list[BaseProcess] = [
            context().Process(
                target=_rank, args=(config, task, self._environment(rank, ranks) | environment, folder)
            )
            for rank in range(ranks)
        ]

    def __enter__(self) -> Job:
        for rank in self.ranks:
            rank.start()
        return self

    def __exit__(self, *error: object) -> None:
        for rank in self.ranks:
            rank.kill()
            rank.join()

    def wait_until_it_trains(self) -> None:
        """Return after the first line of metrics; fail at once, with their lines, if a rank has ended."""
        metrics = self.out / "metrics.jsonl"

        def trains() -> bool:
            assert all(rank.exitcode is None for rank in self.ranks), "\n".join(self.lines())
            return metrics.exists() and metrics.stat().st_size > 0

        until(trains, TEST_TIMEOUT_S, "the first epoch")

    def statuses(self, timeout: float = TEST_TIMEOUT_S) -> list[int | None]:
        """Exit status of every rank, when all have ended."""
        for rank in self.ranks:
            rank.join(timeout)
        return [rank.exitcode for rank in self.ranks]

    def lines(self) -> list[str]:
        """What all ranks together wrote to stderr."""
        texts = (self.folder / f"stderr-{rank}" for rank in range(len(self.ranks)))
        return [line for text in texts for line in text.read_text().splitlines()]

    def waits(self, rank: int) -> bool:
        """Whether the newest heartbeat of a rank says that it has been waiting for at least a second."""
        if not hasattr(self._store, "list_keys"):
            pytest.skip("torch lists the keys of a store since 2.10")
        ending = f"dni_async/{self.restart}/heartbeat/{rank}"
        for key in self._store.list_keys():
            if key.endswith(ending):
                data = self._store.get(key)
                beat = json.loads(data[data.index(b"{") :])
                return beat["activity"].endswith("waiting") and beat["since"] >= 1
        return False

    def _environment(self, rank: int, ranks: int) -> dict[str, str]:
        mine = {"RANK": rank, "WORLD_SIZE": ranks, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": ranks}
        place = {"MASTER_ADDR": "localhost", "MASTER_PORT": self._store.port}
        elastic = {
            "TORCHELASTIC_USE_AGENT_STORE": True,
            "TORCHELASTIC_RESTART_COUNT": self.restart,
            "TORCHELASTIC_MAX_RESTARTS": self.max_restarts,
        }
        return {k: str(v) for k, v in (mine | place | elastic).items()}


def _rank(config: TrainConfig, task: Task, environment: dict[str, str], folder: Path) -> None:
    os.dup2(os.open(folder / f"stderr-{environment['RANK']}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    os.environ.update(environment)

    def work(runner: RankRunner) -> None:
        launch.job.rank_job.start_rank(runner, config, task)

    run_command(work)
