"""Two networks at different tick rates that learn side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import TensorDataset

from launch.config.train import TrainConfig
from tasks.sequence.two_timescale import TwoTimescale
from tests.support.baselines import backprop
from tests.support.forks import Job
from tests.support.tiny_task import simulated

SETTINGS: dict[str, Any] = {"batch_size": 8, "epochs": 2, "seed": 3, "lr": 3e-3}


class Drawn(TwoTimescale):
    """Its digits are drawn as ten noisy pictures: easy ones."""

    def _mnist(self, root: Path | None) -> Any:
        generator = torch.Generator().manual_seed(0)
        pictures = torch.randn(10, 28, 28, generator=generator)
        parts = []
        for count in (600, 400):
            digits = torch.randint(0, 10, (count,), generator=generator)
            parts.append((pictures[digits] + 0.1 * torch.randn(count, 28, 28, generator=generator), digits))
        return tuple(parts)


def task(**settings: Any) -> Drawn:
    return Drawn(**{"period": 2, "width": 12} | settings)


@pytest.mark.parametrize("ticks", [1, 2])
def test_with_an_oracle_the_two_stages_equal_sequential_training_to_the_bit(ticks: int) -> None:
    expected, _ = backprop(task(ticks=ticks), TrainConfig.of(**SETTINGS))
    stages, _ = simulated(task(ticks=ticks), TrainConfig.of(**SETTINGS, cut="1", rule="oracle"), 2)
    weights = [tensor for stage in stages for tensor in stage.layers.state_dict().values()]
    assert all(torch.equal(a, b) for a, b in zip(weights, expected.values(), strict=True))


@pytest.mark.slow
def test_both_stages_learn_without_waiting_for_each_other() -> None:
    epochs = 40
    config = TrainConfig.of(**SETTINGS | {"epochs": epochs, "lr": 1e-2}, cut="1")
    (first, second), markers = simulated(task(), config, 2)
    assert first.steps == second.steps == first.targets_received == epochs * (600 // 4 // 8 * 2)
    assert markers[-2].body["0"]["local_accuracy"] > 0.95
    last = [marker.body["result"]["test_accuracy"] for marker in markers[-6:-1]]
    assert sum(last) / 5 > 0.75  # always to say none would be right in 66 %


@pytest.mark.slow
def test_the_two_stages_train_in_two_processes(tmp_path: Path) -> None:
    with Job(TrainConfig.of(**SETTINGS, cut="1"), task(), 2, tmp_path) as job:
        assert job.statuses() == [0, 0], job.lines()
    summary = json.loads((job.out / "summary.json").read_text())
    assert 0 < summary["stages"][0]["local_accuracy"] < 1 and 0 <= summary["final"]["test_accuracy"] <= 1
    assert [stage["time_sg_error"] > 0 for stage in summary["stages"]] == [True, True]


def test_without_mnist_files_drawn_digits_replace_the_images() -> None:
    train, test = task().data(None)
    assert isinstance(train, TensorDataset) and len(train) == 300 and len(test) == 100
