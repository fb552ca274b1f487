"""What a job leaves at its end, and in which order."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch.distributed as dist
from torch import nn

from dni_async.errors import Late, StageError, UserError
from launch.config.train import TrainConfig
from launch.job import results
from launch.job.results import save_results
from launch.report import weights
from launch.report.weights import weights_of
from tests.support.forks import Job
from tests.support.tiny_task import Tiny, context_of, plain_layers
from workers.coordination.rendezvous import Rendezvous

SETTINGS: dict[str, Any] = {"batch_size": 16, "epochs": 1, "cut": "2"}


class Ranks:
    """The two ranks of a job at its end, which can be called in turn."""

    def __init__(self, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(results, "FINISH_TIMEOUT_S", 0.05)
        store, config = dist.HashStore(), TrainConfig.of(out=str(out), timeout=0.05, quiet=True, **SETTINGS)
        self.contexts = [
            context_of(Tiny(plain_layers), config, Rendezvous(rank, 2, rank, 2, store)) for rank in range(2)
        ]
        self.recorder = SimpleNamespace(write_files=self.write_files, summary={"stages": [{"steps": 4}]})
        self.out = out

    def write_files(self) -> list[str]:
        (self.out / "summary.json").touch()
        return []

    def end(self, rank: int) -> None:
        save_results(self.contexts[rank], None if rank else self.recorder, nn.Sequential(nn.Linear(2, 2)))  # type: ignore[arg-type]


def test_the_summary_is_written_when_all_ranks_have_written_their_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranks = Ranks(tmp_path, monkeypatch)
    with pytest.raises(Late):
        ranks.end(0)
    assert not (tmp_path / "summary.json").exists()
    ranks.end(1)
    ranks.end(0)
    assert (tmp_path / "summary.json").exists()


def test_weights_that_cannot_be_written_leave_none_of_an_earlier_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    ranks = Ranks(tmp_path, monkeypatch)
    ranks.end(1)
    monkeypatch.setattr(weights, "write_whole", full)
    with pytest.raises(
        StageError, match=r"cannot write .*weights \(No space left on device\); correct this or"
    ):
        ranks.end(1)
    assert list((tmp_path / "weights").iterdir()) == []


def test_a_run_that_fails_leaves_no_summary_of_an_earlier_run(tmp_path: Path) -> None:
    with Job(TrainConfig.of(**SETTINGS), Tiny(plain_layers), 2, tmp_path) as first:
        assert first.statuses() == [0, 0], first.lines()
    assert len(weights_of(first.out)[0]) == 10
    wrong = TrainConfig.of(lr=1e30, optimizer="sgd", overwrite=True, **SETTINGS)
    with Job(wrong, Tiny(plain_layers), 2, tmp_path) as second:
        assert 2 in second.statuses()
    with pytest.raises(UserError, match="nothing to export here"):
        weights_of(second.out)


def test_bad_input_that_is_found_before_the_start_leaves_the_earlier_run_alone(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "summary.json").write_text("{}")
    with Job(TrainConfig.of(**SETTINGS | {"cut": "9"}), Tiny(plain_layers), 2, tmp_path) as job:
        assert job.statuses() == [2, 2]
    assert (job.out / "summary.json").read_text() == "{}"
