"""What the tests of the baselines share: sequential backprop to compare with, and the end of a rank."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dni_async.messages import Mark
from launch.baselines.backprop import Backprop
from launch.config import TrainConfig
from tasks.base import Task
from tests.forks import Job
from tests.launch.jobs import our_lines, until
from tests.launch.tiny import Tiny, plain_layers, rank_of
from workers.peers import Peers


def backprop(task: Task, config: TrainConfig) -> tuple[dict[str, Tensor], list[Mark]]:
    """Weights and marks of sequential backprop with the settings of `config`."""
    names = ("batch_size", "epochs", "seed", "optimizer", "lr", "precision")
    rank = rank_of(task, TrainConfig(engine="backprop", **{name: getattr(config, name) for name in names}))
    loop = Backprop(rank, Peers(rank.rendezvous))
    marks: list[Mark] = []
    loop.train(marks.append)
    return loop.module.state_dict(), marks


def check_same_training(
    summary: dict, weights: dict[str, Tensor], task: Task, config: TrainConfig, rows: int, tested: int
) -> None:
    """Weights, losses and scores are those of sequential backprop, on so many samples an epoch."""
    wanted, marks = backprop(task, config)
    assert weights.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(weights[name], value, rtol=1e-4, atol=1e-6)
    assert len(summary["epochs"]) == config.epochs
    for epoch, mark in zip(summary["epochs"], marks, strict=False):
        assert (epoch["trained"], epoch["tested"]) == (rows, tested)
        for key in ("loss", "test_loss", "test_accuracy"):
            assert epoch[key] == pytest.approx(mark.body["result"][key], rel=1e-4), key


def check_end_of_others(engine: str, victim: int, how: signal.Signals, folder: Path) -> None:
    """Of three ranks that train, the others end soon when one is killed or hangs, with one line."""
    config = TrainConfig(engine=engine, batch_size=16, epochs=1_000_000, timeout=3.0, micro_batches=4)
    with Job(config, Tiny(plain_layers), 3, folder) as job:
        metrics = job.out / "metrics.jsonl"
        until(lambda: metrics.exists() and metrics.stat().st_size > 0, 60, "the first epoch")
        pid = job.ranks[victim].pid
        assert pid is not None
        os.kill(pid, how)
        start = time.monotonic()
        others = [rank for number, rank in enumerate(job.ranks) if number != victim]
        for rank in others:
            rank.join(20)
        assert [rank.exitcode for rank in others] == [1, 1]
        assert time.monotonic() - start < 10
    lines = our_lines("\n".join(job.lines()))
    assert len(lines) == 1 and f"({engine}), at step" in lines[0], lines
    assert (f"rank {victim} is gone" in lines[0]) == (how is signal.SIGKILL), lines
