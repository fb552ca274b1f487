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
        self.summary: dict[str, Any] = {"stages": [{"steps": 4}]}
        self.recorder = SimpleNamespace(
            write_files=self.write_files, summary=self.summary, close_loggers=lambda: None
        )
        self.out = out

    def write_files(self, *, whole: bool) -> list[str]:
        (self.out / "curves.png").touch()
        if whole:
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


def full(path: Path, data: bytes) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("rank", [0, 1])
def test_without_the_weights_of_a_rank_there_is_no_summary_and_all_else_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: int
) -> None:
    ranks = Ranks(tmp_path, monkeypatch)

    def fail(at: int) -> None:
        with monkeypatch.context() as patch, pytest.raises(StageError, match=r"cannot write .*weights"):
            patch.setattr(weights, "write_whole", full)
            ranks.end(at)

    for each, end in sorted({rank: fail, 1 - rank: ranks.end}.items(), reverse=True):
        end(each)
    assert (tmp_path / "curves.png").exists() and not (tmp_path / "summary.json").exists()


@pytest.mark.parametrize(("interrupted", "outcome"), [(True, "after step 4; weights, summ"), (False, "")])
def test_a_signal_that_came_after_training_has_changed_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interrupted: bool, outcome: str
) -> None:
    ranks = Ranks(tmp_path, monkeypatch)
    ranks.summary |= {"interrupted": {"signal": "SIGTERM", "step": 4}} if interrupted else {}
    ranks.end(1)
    ranks.end(0)
    told = ranks.contexts[0].runner.interruption
    assert told.finished is not interrupted and told.outcome[:27] == outcome


def test_weights_that_cannot_be_written_leave_none_of_an_earlier_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
