"""Runs of a regression report its metric under its own name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from launch.config.train import TrainConfig
from launch.report.run_table import result_line
from tasks.base import Task
from tests.support.forks import Job


class Sum(Task):
    """The sum of four numbers."""

    def layers(self) -> list[nn.Module]:
        return [nn.Sequential(nn.Linear(4, 8), nn.Tanh()), nn.Linear(8, 1)]

    def data(self, root: Path | None) -> tuple[TensorDataset, TensorDataset]:
        x = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
        y = x.sum(1, keepdim=True)
        return TensorDataset(x[:40], y[:40]), TensorDataset(x[40:], y[40:])


@pytest.mark.parametrize(
    ("ranks", "settings"), [(1, {"engine": "backprop"}), (2, {"rule": "dni", "cut": "1"})], ids=str
)
def test_a_regression_never_speaks_of_accuracy(tmp_path: Path, ranks: int, settings: dict[str, Any]) -> None:
    config = TrainConfig.of(batch_size=10, epochs=2, **settings)
    with Job(config, Sum(), ranks, tmp_path) as job:
        assert job.statuses() == [0] * ranks, job.lines()
    text = (job.out / "summary.json").read_text()
    summary = json.loads(text)
    assert summary["final"].keys() == {"loss", "test_loss", "test_negative_squared_error"}
    assert summary["final"]["test_negative_squared_error"] == pytest.approx(-summary["final"]["test_loss"])
    assert result_line(summary).startswith("test negative squared error -")
    written = text + (job.out / "metrics.jsonl").read_text() + (job.out / "timeline.json").read_text()
    assert "accuracy" not in written and "%" not in result_line(summary)
