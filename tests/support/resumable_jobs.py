"""Jobs that leave checkpoints, of which the same ones can be trained again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from launch.config.train import TrainConfig
from launch.report.weights import load_all
from tasks.base import Task
from tests.support.forks import Job
from tests.support.tiny_task import Tiny

SETTINGS = {"batch_size": 16, "epochs": 3, "cut": "1,3", "deterministic": True, "checkpoint_every": 3}
EPOCH_STEPS = 4
"""Optimizer steps for 50 samples in batches of 16."""


def config(**settings: Any) -> TrainConfig:
    """Return the configuration of three deterministic stages, changed by `settings`."""
    return TrainConfig.of(**{"out": "set by the job"} | SETTINGS | settings)


def trained(
    folder: Path, ranks: int = 3, task: Task | None = None, **settings: Any
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Train a job in `folder`/run to its end; return its weights and its summary."""
    with Job(config(**settings), task or Tiny(), ranks, folder) as job:
        assert job.statuses() == [0] * ranks, job.lines()
    return load_all(job.out, ranks), json.loads((job.out / "summary.json").read_text())


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    """Whether two networks have the same weights, bit for bit."""
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
