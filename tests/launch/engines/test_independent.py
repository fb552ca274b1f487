"""Copies: each is sequential backprop, and together they count every batch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from launch.config.train import TrainConfig
from launch.report.weights import load_all
from tests.support.baselines import check_same_training
from tests.support.forks import Job
from tests.support.tiny_task import Tiny, plain_layers


def test_every_independent_copy_trains_as_sequential_backprop(tmp_path: Path) -> None:
    task = Tiny(plain_layers, train=200, test=17)
    config = TrainConfig.of(engine="copies", batch_size=16, epochs=2, seed=3, optimizer="sgd", lr=0.5)
    with Job(config, task, 2, tmp_path) as job:
        assert job.statuses() == [0, 0], job.lines()
    summary = json.loads((job.out / "summary.json").read_text())
    check_same_training(summary, load_all(job.out, 1), task, config, 2 * 200, 2 * 17)
    assert [stage["samples"] for stage in summary["stages"]] == [400, 400]


@pytest.mark.slow
def test_the_throughput_of_independent_copies_is_their_sum(tmp_path: Path) -> None:
    task = Tiny(plain_layers, train=160)
    gigaflops = 1e-4  # so slow that nothing else counts
    config = TrainConfig.of(engine="copies", batch_size=16, emulate_gflops=gigaflops, epochs=1)
    with Job(config, task, 2, tmp_path / "two") as job:
        assert job.statuses() == [0, 0], job.lines()
    two = json.loads((job.out / "summary.json").read_text())["epochs"][-1]["samples_per_s"]
    alone = TrainConfig.of(engine="backprop", batch_size=16, emulate_gflops=gigaflops, epochs=1)
    with Job(alone, task, 1, tmp_path / "one") as job:
        assert job.statuses() == [0], job.lines()
    one = json.loads((job.out / "summary.json").read_text())["epochs"][-1]["samples_per_s"]
    assert 1.2 * one < two  # twice, less what a busy machine takes
