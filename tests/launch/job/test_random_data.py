"""Data sets that draw from numpy's and Python's generators, as augmentation does."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor
from torch.utils.data import Dataset

from launch.report.weights import load_all
from tests.support.forks import Job
from tests.support.resumable_jobs import config, equal
from tests.support.tiny_task import CLASSES, FEATURES, Tiny, plain_layers
from workers.checkpoint.store import CheckpointStore


class Augmented(Dataset):
    """50 samples, each with other noise whenever it is read."""

    def __len__(self) -> int:
        return 50

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        noise = numpy.random.normal(size=FEATURES) * random.random()
        return torch.tensor(noise, dtype=torch.float32) + index / 50, index % CLASSES


class AugmentedTiny(Tiny):
    def data(self, root: Path | None = None) -> Any:
        return Augmented(), super().data(root)[1]


def weights(folder: Path, **settings: Any) -> dict[str, Tensor]:
    with Job(config(cut="2", **settings), AugmentedTiny(plain_layers), 2, folder) as job:
        assert job.statuses() == [0, 0], job.lines()
    return load_all(job.out, 2)


def test_the_same_command_twice_draws_the_same_and_a_resumed_run_goes_on(tmp_path: Path) -> None:
    first = weights(tmp_path / "first")
    shutil.copytree(tmp_path / "first" / "run", tmp_path / "again" / "run")
    CheckpointStore(tmp_path / "again" / "run").discard(12)  # as if the run had been killed
    assert equal(weights(tmp_path / "second"), first)
    assert equal(weights(tmp_path / "again", resume=True), first)
    assert not equal(weights(tmp_path / "other", seed=1), first)
