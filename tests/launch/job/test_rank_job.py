"""Whole jobs that end when they are accurate enough, in real processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from launch.config.train import TrainConfig
from tasks.vision.digits import DigitsFcn
from tests.support.forks import Job
from tests.support.jobs import ROOT, TINY

STEPS = 24
"""Of an epoch: 1,497 images in batches of 64."""


def finished(folder: Path, ranks: int, **settings: Any) -> dict[str, Any]:
    """The summary of a job that has ended well."""
    config = TrainConfig.of(**{"batch_size": 64, "epochs": 100, "evaluations": 4} | settings)
    with Job(config, DigitsFcn(depth=3, width=32), ranks, folder) as job:
        assert job.statuses() == [0] * ranks, job.lines()
    return json.loads((job.out / "summary.json").read_text())


@pytest.mark.parametrize(
    ("ranks", "settings"),
    [
        (1, {"engine": "backprop"}),
        (2, {"engine": "1f1b", "micro_batches": 4}),
        (3, {"rule": "cdni"}),
        (2, {"rule": "cdni", "transport": "dist", "deterministic": True}),
        (2, {"rule": "frozen"}),
    ],
    ids=str,
)
def test_training_ends_soon_after_the_accuracy_is_reached_and_loses_no_batch(
    tmp_path: Path, ranks: int, settings: dict[str, Any]
) -> None:
    summary = finished(tmp_path, ranks, until=0.6, **settings)
    until, evaluations, stages = summary["until"], summary["evaluations"], summary["stages"]
    assert until["reached"]
    first = next(e for e in evaluations if e["test_accuracy"] >= 0.6)
    assert (until["seconds"], until["steps"]) == (first["seconds"], first["step"])
    assert until["epochs"] == first["step"] / STEPS < 100
    assert all(e["tested"] == 300 for e in evaluations)
    trained = {(stage["steps"], stage["samples"]) for stage in stages}
    assert len(trained) == 1, trained
    assert first["step"] <= stages[0]["steps"] < 100 * STEPS
    if "engine" in settings:  # its processes decide together, before the next batch
        assert stages[0]["steps"] == first["step"]
    sent, received = ([stage[f"targets_{kind}"] for stage in stages] for kind in ("sent", "received"))
    assert sent[1:] == received[:-1]


def test_an_accuracy_out_of_reach_lets_all_epochs_pass(tmp_path: Path) -> None:
    summary = finished(tmp_path, 2, epochs=2, until=1.0, evaluations=3)
    assert summary["until"]["reached"] is False
    assert [(e["epoch"], e["step"]) for e in summary["evaluations"]] == [
        (pytest.approx(1 / 3), 8),
        (pytest.approx(2 / 3), 16),
        (1, 24),
        (pytest.approx(4 / 3), 32),
        (pytest.approx(5 / 3), 40),
        (2, 48),
    ]
    assert [epoch["epoch"] for epoch in summary["epochs"]] == [1, 2]
    assert summary["stages"][0]["steps"] == 2 * STEPS


@pytest.mark.parametrize("ranks", [1, 2])
def test_when_the_time_is_up_training_ends_wherever_the_epoch_stands(tmp_path: Path, ranks: int) -> None:
    """Here before the first evaluation."""
    config = TrainConfig.of(batch_size=3, epochs=100_000, minutes=0.1 / 60)
    with Job(config, DigitsFcn(depth=3, width=1024), ranks, tmp_path) as job:  # a step takes a millisecond
        assert job.statuses() == [0] * ranks, job.lines()
    summary = json.loads((job.out / "summary.json").read_text())
    assert 0.1 < summary["total_s"] < 20
    steps = {stage["steps"] for stage in summary["stages"]}
    assert len(steps) == 1 and 0 < steps.pop() < 499
    assert summary["final"] == {"loss": None, "test_loss": None, "test_accuracy": None}
    assert sorted(path.name for path in (job.out / "weights").iterdir())


def test_a_lockstep_run_stops_at_the_same_step_each_time(tmp_path: Path) -> None:
    ends = []
    for name in ("a", "b"):
        summary = finished(tmp_path / name, 2, until=0.6, cut="2", deterministic=True)
        accuracies = [e["test_accuracy"] for e in summary["evaluations"]]
        ends.append((summary["stages"][0]["steps"], accuracies))
    assert ends[0] == ends[1]


def test_evaluations_change_no_weight_and_no_training_loss(tmp_path: Path) -> None:
    few, many = (
        finished(tmp_path / str(n), 2, epochs=1, evaluations=n, cut="2", deterministic=True) for n in (1, 5)
    )
    assert few["final"] == many["final"]
    assert few["stages"][0]["sg_cosine"] == many["stages"][0]["sg_cosine"]


def test_a_run_without_an_output_folder_touches_no_file_of_the_working_folder(tmp_path: Path) -> None:
    weights = tmp_path / "weights" / "stage-5.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(b"of somebody's own run")
    subprocess.run(
        [sys.executable, "-m", "launch.train", *TINY, "--epochs", "1", "--quiet"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        timeout=100,
        check=True,
    )
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [weights]
