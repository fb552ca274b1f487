"""A study in this process: its files, and one that goes on after an interruption."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dni_async.errors import UserError
from launch import study
from launch.config.train import TrainConfig
from tasks.base import Task
from tests.support.jobs import TINY
from workers.failure.rank_runner import RankRunner

ARGUMENTS = ("--rules", "backprop", "slow: delayed --lr 1e-9", "frozen", "--vary", "stages=2/3")


def learned(config: TrainConfig, task: Task) -> dict[str, Any]:
    """What a job would have learned, in place of training."""
    stages, seed = config.partition.stages, config.task.seed
    late = [stages - 1.5] if config.rule == "delayed" else []
    return {
        "rule": config.rule,
        "stages": stages,
        "seed": seed,
        "test_metric": 0.9 - 0.1 * stages + 0.01 * seed,
        "staleness": late,
    }


def studied(monkeypatch: pytest.MonkeyPatch, out: Path, *arguments: str) -> list[tuple[str, int, int]]:
    """Run a study, and return the rule, the stages and the seed of each run that it has made."""
    trained: list[tuple[str, int, int]] = []

    def train(config: TrainConfig, task: Task) -> dict[str, Any]:
        trained.append((config.rule, config.partition.stages, config.task.seed))
        return learned(config, task)

    monkeypatch.setattr(study, "train_in_process", train)
    monkeypatch.setattr(study, "place", lambda *arguments: None)
    monkeypatch.setattr("sys.argv", ["launch.study", *TINY, *ARGUMENTS, "--out", str(out), *arguments])
    study.work(RankRunner())
    return trained


RUNS = [("frozen", 1), ("delayed", 2), ("delayed", 3), ("frozen", 2), ("frozen", 3)]
"""Of one seed: rule and stages; backprop is one stage."""


def test_the_tables_and_the_data_of_a_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = studied(monkeypatch, tmp_path, "--repeats", "2")
    assert trained == [(*run, seed) for seed in (0, 1) for run in RUNS]
    text = (tmp_path / "study.md").read_text()
    assert "**digits-fcn: test accuracy by stages, mean of 2 seeds**" in text
    assert "| rule | stages 1 | stages 2 | stages 3 |" in text
    assert "| backprop | 80.50 % | - | - |" in text
    assert "| slow | - | 70.50 % | 60.50 % |" in text
    assert "| slow | - | 70.00 % to 71.00 % | 60.00 % to 61.00 % |" in text
    assert "| slow | - | 0.5 | 1.5 |" in text
    assert (tmp_path / "study.png").stat().st_size > 1000


def test_a_study_that_is_started_again_makes_only_the_runs_that_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    studied(monkeypatch, tmp_path, "--repeats", "1")
    whole = json.loads((tmp_path / "study.json").read_text())
    (tmp_path / "study.json").write_text(json.dumps(whole | {"runs": whole["runs"][:3]}))
    assert studied(monkeypatch, tmp_path, "--repeats", "1") == [(*run, 0) for run in RUNS[3:]]
    assert json.loads((tmp_path / "study.json").read_text()) == whole


def test_the_folder_of_a_training_run_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "summary.json").write_text("{}")
    with pytest.raises(UserError, match="has the results of a training run; choose another --out"):
        studied(monkeypatch, tmp_path)


def test_a_study_repeats_no_run_for_a_setting_that_changes_no_result_and_drops_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    studied(monkeypatch, tmp_path, "--repeats", "1")
    before = (tmp_path / "study.json").read_bytes()
    assert studied(monkeypatch, tmp_path, "--repeats", "1", "--timeout", "50") == []
    with pytest.raises(UserError, match="has runs with other settings, such as backprop with 1"):
        studied(monkeypatch, tmp_path, "--repeats", "1", "--lr", "0.5")
    after = json.loads((tmp_path / "study.json").read_text())
    assert after["runs"] == json.loads(before)["runs"]
