"""Runs whose files cannot be written at their end."""

from __future__ import annotations

from pathlib import Path

import pytest

from launch.config.train import TrainConfig
from tests.support.forks import Job
from tests.support.tiny_task import Tiny, plain_layers


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_file_that_cannot_be_written_is_named_and_the_others_are_kept(tmp_path: Path, ranks: int) -> None:
    (tmp_path / "run" / "summary.json" / "in the way").mkdir(parents=True)
    cut = {"cut": "2"} if ranks == 2 else {}
    config = TrainConfig.of(batch_size=10, epochs=2, **cut)
    with Job(config, Tiny(plain_layers), ranks, tmp_path) as job:
        assert job.statuses()[0] == 1
    (line,) = job.lines()
    assert f"cannot write {job.out / 'summary.json'} (Is a directory)" in line
    assert (job.out / "curves.png").stat().st_size > 1000
    assert (job.out / "weights" / f"stage-{ranks - 1}.safetensors").exists()


def test_weights_that_cannot_be_written_end_the_run_after_its_other_files_without_a_summary(
    tmp_path: Path,
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "weights").touch()
    with Job(TrainConfig.of(batch_size=10, epochs=2, cut="2"), Tiny(plain_layers), 2, tmp_path) as job:
        assert 1 in job.statuses()
    assert all(f"cannot write {job.out / 'weights'} (File exists)" in line for line in job.lines())
    assert (job.out / "curves.png").stat().st_size > 1000
    assert not (job.out / "summary.json").exists()  # which would say that all is there
