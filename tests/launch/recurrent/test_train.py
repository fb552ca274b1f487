"""Tasks over time train, evaluate, stop early and leave a record."""

from __future__ import annotations

import json
import math
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from dni_async.errors import UserError
from launch.config.recurrent import TIME_RULES, SequenceConfig
from launch.recurrent.train import Trainer, run_sequences
from launch.recurrent.weights import load
from tasks.sequence.base import SequenceTask
from tasks.text.through_time import CharLM
from workers.failure.interruption import Interruption
from workers.failure.rank_runner import RankRunner

TINY = ("width=8", "updates=20")


def run(task: str, *args: str, **settings: Any) -> dict[str, Any]:
    defaults = {"epochs": 2, "batch_size": 8, "quiet": True}
    return run_sequences(RankRunner(), SequenceConfig.of(task=task, task_args=args, **defaults | settings))


@pytest.fixture
def text(tmp_path: Path) -> str:
    path = tmp_path / "text"
    path.write_text("to be or not to be, that is the question. " * 30)
    return f"text={path}"


@pytest.mark.parametrize("rule", TIME_RULES)
@pytest.mark.parametrize("task", ["copy", "repeat-copy", "adding", "argmax"])
def test_every_task_trains_under_every_rule(task: str, rule: str) -> None:
    summary = run(task, *TINY, rule=rule, bptt=3)
    assert summary["updates"] >= 40 and len(summary["epochs"]) == 2
    assert all(math.isfinite(epoch["loss"]) for epoch in summary["epochs"])
    assert summary["epochs"][0]["state_max"] > 0
    assert ("sg_cosine" in summary["epochs"][0]) is (rule != "bptt")
    assert ("longest_solved_length" in summary["final"]) is ("copy" in task)


@pytest.mark.parametrize("core", ["lstm", "gru", "rnn"])
def test_a_char_lm_learns_and_leaves_its_record(tmp_path: Path, text: str, core: str) -> None:
    out = tmp_path / "run"
    summary = run("char-lm", text, f"core={core}", "width=32", epochs=6, lr=1e-2, out=str(out))
    assert json.loads((out / "summary.json").read_text())["final"] == summary["final"]
    assert summary["final"]["bits_per_char"] < 3.0 < math.log2(summary["symbols"])
    assert (
        summary["epochs"][-1]["validation"]["bits_per_char"]
        < summary["epochs"][0]["validation"]["bits_per_char"]
    )
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert all(line["state_max"] <= 20 for line in lines)


def test_a_word_lm_reports_perplexity(tmp_path: Path) -> None:
    for split in ("train", "valid", "test"):
        (tmp_path / f"{split}.txt").write_text("the cat sat on the mat\n" * 20)
    summary = run("word-lm", f"folder={tmp_path}", "width=16", "dropout=0.1", epochs=30, lr=1e-2, bptt=6)
    assert 1 < summary["final"]["perplexity"] < 4


def test_the_same_seed_gives_the_same_run_and_another_does_not(text: str) -> None:
    losses = [
        [epoch["loss"] for epoch in run("char-lm", text, "width=8", seed=seed)["epochs"]]
        for seed in (0, 0, 1)
    ]
    assert losses[0] == losses[1] != losses[2]


def trainer(task: SequenceTask, **settings: Any) -> Trainer:
    config = SequenceConfig.of(batch_size=8, **settings)
    return Trainer(config, task, task.sequences(None, 8, config.task.seed), torch.device("cpu"))


def test_evaluation_does_not_depend_on_the_window_length(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trainer(CharLM(text=text.removeprefix("text="), width=8))
    costs = []
    for steps in (7, 256):
        monkeypatch.setattr("tasks.text.through_time.EVALUATION_STEPS", steps)
        costs.append(run._evaluate("test"))
    assert costs[0] == pytest.approx(costs[1], rel=1e-6)


def test_training_ends_early_when_validation_stops_improving_and_the_best_weights_are_saved(
    text: str,
) -> None:
    run = trainer(CharLM(text=text.removeprefix("text="), width=8), epochs=9, patience=2)
    costs = iter([3.0, 2.0, 2.5, 2.1, 1.0])
    weights = []

    def evaluate(split: str) -> float:
        weights.append(run.model.core.weight_hh_l0.detach().clone())
        return next(costs) if split == "validation" else 7.0

    run._evaluate = evaluate  # type: ignore[method-assign, assignment]
    assert [record["epoch"] for record in run.run()] == [1, 2, 3, 4]
    final = run.final()
    assert torch.equal(run.model.core.weight_hh_l0, weights[1])
    assert final["validation"]["bits_per_char"] == pytest.approx(2.0 / math.log(2))
    assert final["bits_per_char"] == pytest.approx(7.0 / math.log(2))


def test_a_loss_that_is_no_number_ends_the_run_with_one_line(text: str) -> None:
    with pytest.raises(UserError, match=r"at update \d+: the loss is (nan|inf); lower --lr"):
        run("char-lm", text, "width=8", optimizer="sgd", lr=1e30, clip_norm=None, epochs=4)


def test_a_signal_ends_training_and_the_model_is_written(tmp_path: Path) -> None:
    class Signalled(Interruption):
        """A signal comes when training has begun."""

        def begin_training(self) -> None:
            self.signum = signal.SIGTERM

    runner = RankRunner()
    runner.interruption = Signalled()
    config = SequenceConfig.of(task="adding", task_args=TINY, epochs=1000, quiet=True, out=str(tmp_path))
    run_sequences(runner, config)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["interrupted"] == {"signal": "SIGTERM", "step": 1}
    assert [epoch["updates"] for epoch in summary["epochs"]] == [1]
    assert load(tmp_path).task.name == "adding"
    assert runner.interruption.outcome == f"after update 1; summary.json and the model are in {tmp_path}"


def test_a_signal_after_the_last_epoch_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner, final = RankRunner(), Trainer.final

    def signalled(trainer: Trainer) -> dict[str, Any]:
        runner.interruption.signum = signal.SIGTERM
        return final(trainer)

    monkeypatch.setattr(Trainer, "final", signalled)
    config = SequenceConfig.of(task="adding", task_args=TINY, epochs=1, quiet=True, out=str(tmp_path))
    assert "interrupted" not in run_sequences(runner, config)
    assert runner.interruption.finished


def test_a_run_that_fails_leaves_no_summary_of_an_earlier_run(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text("{}")
    with pytest.raises(UserError, match="the loss is"):
        run("adding", *TINY, lr=1e30, clip_norm=1e30, optimizer="sgd", out=str(tmp_path), overwrite=True)
    assert not (tmp_path / "summary.json").exists()
