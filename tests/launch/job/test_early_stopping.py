"""Jobs that end when the validation gets no better, and test the weights with which it was best.

Labels are of chance, so after some epochs there is nothing to learn but the training set by heart.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from launch.config.train import TrainConfig
from launch.engines.backprop import Backprop
from launch.report.recorder import Recorder
from launch.report.weights import load_all, weights_of
from tests.support.forks import Job
from tests.support.tiny_task import Tiny, context_of, plain_layers
from workers.checkpoint.store import CheckpointStore
from workers.coordination.collectives import Peers

SETTINGS: dict[str, Any] = {"batch_size": 10, "epochs": 60, "patience": 2, "lr": 3e-2}
KEPT: dict[str, Any] = {"deterministic": True, "lr": 0.1, "checkpoint_every": 3, "out": "set by the job"}
"""With checkpoints, and the same again."""
STEPS = 5
"""Of an epoch."""


def task() -> Tiny:
    return Tiny(plain_layers, validation=30)


def trained(folder: Path, ranks: int = 2, **settings: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Summary and weights of a job that ended well."""
    one_network = settings.get("engine") in ("backprop", "ddp", "copies")
    cut = {} if one_network or ranks == 1 else {"cut": "2"}
    with Job(TrainConfig.of(**SETTINGS | cut | settings), task(), ranks, folder) as job:
        assert job.statuses() == [0] * ranks, job.lines()
    return json.loads((job.out / "summary.json").read_text()), load_all(job.out, 1 if one_network else ranks)


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def scored(weights: dict[str, Tensor], split: str) -> dict[str, float]:
    """Loss and accuracy of a network with these weights."""
    model = nn.Sequential(*plain_layers())
    model.load_state_dict(weights)
    known = task()
    (x, y) = (known.validation() if split == "validation" else known.data()[1]).tensors
    with torch.no_grad():
        output = model.eval()(x)
        loss, accuracy = known.loss(output, y).item(), known.metric(output, y).mean().item()
    return {f"{split}_loss": pytest.approx(loss, rel=1e-5), f"{split}_accuracy": pytest.approx(accuracy)}


def check(summary: dict[str, Any], weights: dict[str, Tensor]) -> None:
    """It ended early, with the weights of the best validation, and these were tested."""
    losses = [epoch["validation_loss"] for epoch in summary["epochs"]]
    early, best = summary["early_stopping"], summary["early_stopping"]["best"]
    assert early["ended"] == "patience" and len(losses) < SETTINGS["epochs"]
    assert best["epoch"] == losses.index(min(losses[: best["epoch"] + 2])) + 1 <= len(losses) - 2
    assert best["step"] == best["epoch"] * STEPS
    told = {key: best[key] for key in ("validation_loss", "validation_accuracy")}
    assert told == scored(weights, "validation")
    assert {key: summary["final"][key] for key in ("test_loss", "test_accuracy")} == scored(weights, "test")
    assert summary["dataset"] == {"train": 50, "test": 20, "validation": 30}


def test_with_exact_gradients_two_stages_stop_as_sequential_backprop_does_to_the_bit(tmp_path: Path) -> None:
    summary, stages = trained(tmp_path, rule="oracle")
    check(summary, stages)
    context = context_of(task(), TrainConfig.of(engine="backprop", quiet=True, **SETTINGS))
    textbook, recorder = Backprop(context, Peers(context.rendezvous)), Recorder(context)
    recorder.start()
    textbook.train(recorder.on_marker, lambda: recorder.should_stop)
    assert equal(stages, textbook.module.state_dict())
    for key in ("early_stopping", "final"):
        assert recorder.summary[key] == summary[key]


@pytest.mark.parametrize(
    ("ranks", "settings"),
    [
        (2, {"rule": "cdni"}),
        pytest.param(2, {"rule": "local", "transport": "dist"}, marks=pytest.mark.slow),
        pytest.param(2, {"rule": "cdni", "deterministic": True}, marks=pytest.mark.slow),
        pytest.param(1, {"rule": "cdni"}, marks=pytest.mark.slow),
        pytest.param(1, {"engine": "backprop"}, marks=pytest.mark.slow),
        pytest.param(2, {"engine": "ddp"}, marks=pytest.mark.slow),
        pytest.param(2, {"engine": "copies"}, marks=pytest.mark.slow),
        pytest.param(2, {"engine": "gpipe", "micro_batches": 2}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_all_engines_stop_with_the_best_weights(tmp_path: Path, ranks: int, settings: Any) -> None:
    check(*trained(tmp_path, ranks, **settings))


def test_a_resumed_run_stops_as_early_as_the_uninterrupted_run_and_exports_the_best_weights(
    tmp_path: Path,
) -> None:
    summary, weights = trained(tmp_path, **KEPT)
    check(summary, weights)
    exported, source = weights_of(tmp_path / "run")
    assert equal(exported, weights)
    assert source.startswith(f"the best weights, of step {summary['early_stopping']['best']['step']}, from ")
    last = CheckpointStore(tmp_path / "run").steps()[-1]
    assert not equal(weights_of(tmp_path / "run", last)[0], weights)

    with Job(TrainConfig.of(**SETTINGS | KEPT | {"resume": True, "patience": 0}), task(), 2, tmp_path) as job:
        assert job.statuses() == [2, 2]
    (line,) = job.lines()
    assert f"the checkpoint of step {last} was made with --patience; give it, or start anew in anoth" in line

    with Job(TrainConfig.of(**SETTINGS | KEPT | {"resume": True}), task(), 2, tmp_path) as job:
        assert job.statuses() == [2, 2]
    assert job.lines()[0].endswith(f"(step {last}); raise --patience to train on, or choose another --out")

    CheckpointStore(tmp_path / "run").discard(last)  # as if the run had been killed
    (tmp_path / "run" / "summary.json").unlink()
    again, resumed = trained(tmp_path, resume=True, **KEPT)
    assert again["checkpoints"]["resumed_at"] and equal(resumed, weights)
    assert (again["final"], again["early_stopping"]) == (summary["final"], summary["early_stopping"])


@pytest.mark.slow
def test_a_run_that_stopped_early_is_only_tested_again_when_resumed_also_in_another_cut(
    tmp_path: Path,
) -> None:
    summary, weights = trained(tmp_path, **KEPT)
    (tmp_path / "run" / "summary.json").unlink()  # as if the results could not be written
    again, uncut = trained(tmp_path, 1, resume=True, **KEPT)
    assert equal(uncut, weights)
    assert (again["final"], again["early_stopping"]) == (summary["final"], summary["early_stopping"])
    assert again["stages"][0]["steps"] == summary["stages"][0]["steps"]


def test_without_a_validation_set_the_run_is_refused_in_one_line(tmp_path: Path) -> None:
    with Job(TrainConfig.of(**SETTINGS), Tiny(plain_layers), 2, tmp_path) as job:
        assert job.statuses() == [2, 2]
    (line,) = job.lines()
    assert "patience is 2, and task Tiny has no validation set to end early by; leave it out" in line


@pytest.mark.parametrize(
    "settings", [{"rule": "cdni"}, {"engine": "backprop"}, {"rule": "local", "patience": 0, "epochs": 4}]
)
def test_averaged_weights_are_what_is_tested_and_what_is_left(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    ranks = 1 if "engine" in settings else 2
    summary, weights = trained(tmp_path, ranks, ema=0.9, **settings)
    final = summary["final"]
    assert {key: final[key] for key in ("test_loss", "test_accuracy")} == scored(weights, "test")
