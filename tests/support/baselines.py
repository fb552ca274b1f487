"""What the tests of the baselines share: sequential backprop to compare with, and the end of a rank."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dni_async.messages import Marker, MarkerKind
from launch.config.train import TrainConfig
from launch.engines.backprop import Backprop
from tasks.base import Task
from tests.support.forks import Job
from tests.support.jobs import our_lines
from tests.support.tiny_task import Tiny, context_of, plain_layers
from workers.coordination.collectives import Peers


def backprop(task: Task, config: TrainConfig) -> tuple[dict[str, Tensor], list[Marker]]:
    """Weights and markers of sequential backprop with the settings of `config`."""
    names = ("batch_size", "epochs", "seed", "optimizer", "lr", "precision", "clip_norm", "ema")
    settings = {name: config.flat()[name] for name in names}
    context = context_of(task, TrainConfig.of(engine="backprop", **settings))
    loop = Backprop(context, Peers(context.rendezvous))
    markers: list[Marker] = []
    loop.train(markers.append)
    loop.updater.take_average()
    return loop.module.state_dict(), markers


def check_same_training(
    summary: dict, weights: dict[str, Tensor], task: Task, config: TrainConfig, rows: int, tested: int
) -> None:
    """Weights, losses and scores are those of sequential backprop, on so many samples an epoch."""
    wanted, markers = backprop(task, config)
    assert weights.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(weights[name], value, rtol=1e-4, atol=1e-6)
    epochs = [marker for marker in markers if marker.kind is MarkerKind.EPOCH]
    assert len(summary["epochs"]) == config.task.epochs
    for epoch, marker in zip(summary["epochs"], epochs, strict=True):
        assert (epoch["trained"], epoch["tested"]) == (rows, tested)
        for key in ("loss", "test_loss", "test_accuracy"):
            assert epoch[key] == pytest.approx(marker.body["result"][key], rel=1e-4), key


def check_end_of_others(engine: str, victim: int, how: signal.Signals, folder: Path) -> None:
    """Of three ranks that train, the others end soon when one is killed or hangs, with one line."""
    config = TrainConfig.of(engine=engine, batch_size=16, epochs=1_000_000, timeout=8.0, micro_batches=4)
    with Job(config, Tiny(plain_layers), 3, folder) as job:
        job.wait_until_it_trains()
        pid = job.ranks[victim].pid
        assert pid is not None
        os.kill(pid, how)
        start = time.monotonic()
        others = [rank for number, rank in enumerate(job.ranks) if number != victim]
        for rank in others:
            rank.join(20)
        assert [rank.exitcode for rank in others] == [1, 1]
        assert time.monotonic() - start < 18
    lines = our_lines("\n".join(job.lines()))
    assert len(lines) == 1 and f"({engine}), at step" in lines[0], lines
    assert (f"rank {victim} is gone" in lines[0]) == (how is signal.SIGKILL), lines
