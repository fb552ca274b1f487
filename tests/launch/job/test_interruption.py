"""Signals to jobs that train: what was trained is written, or the job ends at once."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from launch.config.train import TrainConfig
from launch.report.weights import weights_of
from tests.support.forks import Job
from tests.support.tiny_task import Tiny, plain_layers

ENDLESS: dict[str, Any] = {"batch_size": 16, "epochs": 10_000_000, "cut": "2"}
WRITTEN = {"summary.json", "metrics.jsonl", "timeline.json", "timeline.png", "curves.png", "weights"}


def endless(ranks: int, folder: Path, **settings: Any) -> Job:
    return Job(TrainConfig.of(**ENDLESS | settings), Tiny(plain_layers), ranks, folder)


@pytest.mark.parametrize(
    ("settings", "ranks", "signum", "hears"),
    [
        ({}, 2, signal.SIGINT, (0, 1)),
        ({}, 2, signal.SIGTERM, (1,)),
        pytest.param({"engine": "ddp", "cut": ""}, 2, signal.SIGINT, (0, 1)),
        pytest.param({"engine": "backprop", "cut": ""}, 1, signal.SIGTERM, (0,), marks=pytest.mark.slow),
        pytest.param({"engine": "copies", "cut": ""}, 2, signal.SIGINT, (1,), marks=pytest.mark.slow),
        pytest.param({"engine": "gpipe"}, 2, signal.SIGINT, (0, 1), marks=pytest.mark.slow),
        pytest.param({"engine": "1f1b"}, 2, signal.SIGINT, (1,), marks=pytest.mark.slow),
        pytest.param({"engine": "ddp", "cut": ""}, 2, signal.SIGINT, (1,), marks=pytest.mark.slow),
        pytest.param({"rule": "delayed", "cut": "1,3"}, 3, signal.SIGINT, (2,), marks=pytest.mark.slow),
        pytest.param({"supervise": True, "out": "a"}, 2, signal.SIGTERM, (0, 1), marks=pytest.mark.slow),
    ],
)
def test_a_signal_ends_training_and_all_results_are_written(
    settings: dict[str, Any], ranks: int, signum: signal.Signals, hears: tuple[int, ...], tmp_path: Path
) -> None:
    """Also when only one of the ranks hears it."""
    with endless(ranks, tmp_path, **settings) as job:
        job.wait_until_it_trains()
        for rank in hears:
            os.kill(job.ranks[rank].pid or 0, signum)
        assert job.statuses()[0] == 128 + signum, job.lines()
        assert (job.out / "summary.json").exists(), job.lines()
    summary = json.loads((job.out / "summary.json").read_text())
    steps = summary["stages"][0]["steps"]
    assert summary["interrupted"] == {"signal": signum.name, "step": steps} and steps > 0
    assert f"stopped by {signum.name} after step {steps} of 40000000" in summary["notes"]
    assert {path.name for path in job.out.iterdir()} >= WRITTEN
    assert len(weights_of(job.out)[0]) == 10
    assert job.lines() == [
        f"dni-async: stopped by {signum.name} after step {steps}; weights, summary.json and pictures are in "
        f"{job.out}"
    ]


def test_an_interrupted_run_with_checkpoints_can_be_resumed_where_it_stood(tmp_path: Path) -> None:
    with endless(2, tmp_path, checkpoint_every=0, out="a") as job:
        job.wait_until_it_trains()
        os.kill(job.ranks[0].pid or 0, signal.SIGINT)
        assert job.statuses()[0] == 130, job.lines()
        assert (job.out / "summary.json").exists(), job.lines()
    steps = json.loads((job.out / "summary.json").read_text())["interrupted"]["step"]
    epochs = -(-steps // 4) + 1
    with endless(2, tmp_path, checkpoint_every=0, out="a", resume=True, epochs=epochs) as again:
        assert again.statuses() == [0, 0], again.lines()
    summary = json.loads((job.out / "summary.json").read_text())
    assert (summary["checkpoints"]["resumed_at"], summary["stages"][1]["steps"]) == (steps, 4 * epochs)
    assert "interrupted" not in summary


def test_a_signal_because_a_rank_was_killed_does_not_wait_for_results(tmp_path: Path) -> None:
    with endless(2, tmp_path) as job:
        job.wait_until_it_trains()
        job.ranks[1].kill()
        os.kill(job.ranks[0].pid or 0, signal.SIGTERM)
        start = time.monotonic()
        assert job.statuses()[0] in (1, 143)
        assert time.monotonic() - start < 8
    (line,) = job.lines()
    assert re.search("(stage|rank) 1.* (is gone|closed its end)", line)
    assert not (job.out / "summary.json").exists()


@pytest.mark.slow
def test_a_hung_stage_delays_the_end_by_ten_seconds_only(tmp_path: Path) -> None:
    with endless(2, tmp_path) as job:
        job.wait_until_it_trains()
        os.kill(job.ranks[1].pid or 0, signal.SIGSTOP)
        start = time.monotonic()
        os.kill(job.ranks[0].pid or 0, signal.SIGINT)
        job.ranks[0].join(30)
        assert job.ranks[0].exitcode == 130
        assert 9 < time.monotonic() - start < 20
    (line,) = job.lines()
    assert "stage 0 (rank 0), a" in line and line.endswith("stopped by SIGINT")
    assert not (job.out / "summary.json").exists()


@pytest.mark.slow
def test_a_second_signal_ends_a_job_at_once(tmp_path: Path) -> None:
    with endless(2, tmp_path) as job:
        job.wait_until_it_trains()
        os.kill(job.ranks[1].pid or 0, signal.SIGSTOP)
        os.kill(job.ranks[0].pid or 0, signal.SIGINT)
        time.sleep(1.0)  # the time between two presses of Ctrl-C
        start = time.monotonic()
        os.kill(job.ranks[0].pid or 0, signal.SIGINT)
        job.ranks[0].join(30)
        assert job.ranks[0].exitcode == 130 and time.monotonic() - start < 6
