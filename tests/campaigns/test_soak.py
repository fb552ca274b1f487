"""The soak campaign: nothing grows in a run without a limit."""

from __future__ import annotations

import json
from pathlib import Path

import psutil
import pytest

from launch.config.train import TrainConfig
from tests.campaigns.soak import compare, soak
from tests.support.forks import Job
from tests.support.growth import ProcessWatch
from tests.support.jobs import TINY
from tests.support.tiny_task import Tiny


def test_descriptors_slots_and_threads_do_not_grow_in_three_seconds_of_training(tmp_path: Path) -> None:
    config = TrainConfig.of(batch_size=16, epochs=1_000_000, minutes=0.05)
    with Job(config, Tiny(), 2, tmp_path) as job:

        def ranks_in_training() -> list[psutil.Process]:
            metrics = job.out / "metrics.jsonl"
            started = metrics.exists() and metrics.stat().st_size > 0
            return [psutil.Process(rank.pid) for rank in job.ranks] if started else []

        watch = ProcessWatch(ranks_in_training, 0.1, tmp_path / "samples.jsonl")
        watch.start()
        assert job.statuses() == [0, 0], job.lines()
        watch.stop()
    report, rows = compare(watch.samples)
    assert report.cases == 2
    assert [set(row["grew"]) - {"rss_bytes"} for row in rows] == [set(), set()]


@pytest.mark.slow
def test_nothing_grows_in_half_a_minute_of_training(tmp_path: Path) -> None:
    report = soak(tmp_path, 0.5, 0.5, [*TINY, "--stages", "2"])
    assert (report.cases, report.problems) == (2, [])
    assert json.loads((tmp_path / "soak.json").read_text())["looks"] > 20
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert 29 < summary["total_s"] < 60
    assert len({(stage["steps"], stage["samples"]) for stage in summary["stages"]}) == 1


@pytest.mark.slow
def test_a_run_that_fails_is_a_problem_of_the_soak(tmp_path: Path) -> None:
    assert soak(tmp_path, 0.1, 0.2, ["--task", "nothing"]).problems == ["the run ended with status 2"]


def test_a_run_that_does_not_end_is_a_problem_and_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.campaigns.soak.END_TIMEOUT_S", 0.0)
    report = soak(tmp_path, 0.01, 0.2, TINY)
    assert report.problems == ["the run did not end 0 s after its 0.01 minutes"]
    mine = psutil.Process().children(recursive=True)
    assert not [process for process in mine if str(tmp_path) in " ".join(process.cmdline())]


def test_a_soak_with_few_samples_is_a_problem() -> None:
    report, _ = compare([[]] * 2)
    assert report.problems == ["there are 2 samples only; give more minutes"]
