"""A language model cut into stages, decoupled in depth and in time."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dni_async.stage.simulation import Simulation, downstream_first
from dni_async.stage.stage import Stage
from dni_async.state.checkpoint import targets_under_way
from dni_async.state.state_dict import State
from launch.compare import work as compare
from launch.config.train import TrainConfig
from launch.fit import fit
from launch.job.message_stream import StreamPosition
from launch.job.partition_plan import make_plan
from launch.job.stage_factory import build_stage
from launch.report.weights import load_all
from tasks.text.layered import CharLMStack
from tests.support.baselines import backprop
from tests.support.forks import Job
from tests.support.tiny_task import data_of, messages_of, simulated
from workers.failure.rank_runner import RankRunner

SETTINGS: dict[str, Any] = {"batch_size": 8, "epochs": 2, "seed": 3, "lr": 3e-3}
CUT = {1: "", 2: "2", 3: "1,2", 4: "1,2,3"}
WINDOWS = ((int(0.9 * 1260) - 1) // 7) // 8
"""Of a row, which are the steps of an epoch."""


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("text") / "text"
    path.write_text("to be or not to be, that is the question. " * 30)
    return str(path)


def task(text: str, **settings: Any) -> CharLMStack:
    """It has not read its data yet."""
    return CharLMStack(text=text, **{"width": 12, "embedding": 8, "bptt": 7} | settings)


def config(stages: int, **settings: Any) -> TrainConfig:
    return TrainConfig.of(**SETTINGS | {"cut": CUT[stages]} | settings)


def weights_of(stages: list[Stage]) -> list[Tensor]:
    return [tensor for stage in stages for tensor in stage.layers.state_dict().values()]


def equal(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.fixture(scope="module")
def textbook(text: str) -> dict[str, Tensor]:
    """The weights of sequential training, synthetic gradients through time included."""
    return backprop(task(text), TrainConfig.of(**SETTINGS))[0]


@pytest.mark.parametrize(
    ("stages", "settings"),
    [
        (1, {"rule": "oracle"}),
        (2, {"rule": "oracle"}),
        (4, {"rule": "oracle", "evaluations": 3}),
        (3, {"rule": "delayed", "stash": 1}),
    ],
    ids=str,
)
def test_with_exact_gradients_in_depth_the_stages_equal_sequential_training_to_the_bit(
    textbook: dict[str, Tensor], text: str, stages: int, settings: dict[str, Any]
) -> None:
    parts, _ = simulated(task(text), config(stages, **settings), stages)
    assert equal(weights_of(parts), list(textbook.values()))


@pytest.mark.slow
def test_with_exact_gradients_four_processes_equal_sequential_training_to_the_bit(
    textbook: dict[str, Tensor], text: str, tmp_path: Path
) -> None:
    with Job(config(4, rule="oracle", transport="shm,dist,shm"), task(text), 4, tmp_path) as job:
        assert job.statuses() == [0] * 4, job.lines()
    weights = load_all(job.out, 4)
    assert [name for name in textbook if not torch.equal(weights[name], textbook[name])] == []


@pytest.mark.parametrize("end", ["bptt", "dni-permuted"])
def test_without_exact_gradients_at_window_ends_the_weights_differ(
    textbook: dict[str, Tensor], text: str, end: str
) -> None:
    """So the comparison above can fail."""
    other = backprop(task(text, end=end), TrainConfig.of(**SETTINGS))[0]
    assert not equal(list(other.values()), list(textbook.values()))


@pytest.mark.parametrize("rule", ["dni", "cdni", "local", "delayed"])
def test_decoupled_stages_learn_and_every_window_is_used(text: str, rule: str) -> None:
    known = task(text)
    parts, markers = simulated(known, config(2, rule=rule, epochs=4), 2)
    assert [(stage.steps, stage.samples) for stage in parts] == [(4 * WINDOWS, 4 * WINDOWS * 8)] * 2
    assert parts[0].targets_received == (0 if rule == "local" else 4 * WINDOWS)
    nats = [marker.body["result"]["test_loss"] for marker in markers[:-1]]
    assert nats[-1] < nats[0] < math.log(known.metadata["symbols"]) + 0.15
    for stage in markers[-2].body["0"], markers[-2].body["1"]:
        assert 0 < stage["state_max"] <= 20 and stage["time_sg_error"] > 0


def test_a_deterministic_cut_knows_what_recurrent_layers_cost(text: str) -> None:
    known, settings = task(text, width=64), config(2, cut="", deterministic=True, rule="frozen")
    assert make_plan(settings, known, data_of(known, settings), 2).bounds == [(0, 2), (2, 4)]


def test_two_processes_learn_the_text_and_report_bits_per_character(text: str, tmp_path: Path) -> None:
    with Job(config(2), task(text), 2, tmp_path) as job:
        assert job.statuses() == [0, 0], job.lines()
    summary = json.loads((job.out / "summary.json").read_text())
    assert summary["metric_name"] == "bits_per_char"
    bits = [epoch["test_bits_per_char"] for epoch in summary["epochs"]]
    assert bits[-1] < bits[0] < math.log2(summary["facts"]["symbols"]) + 0.2
    assert bits[-1] == pytest.approx(summary["final"]["test_loss"] / math.log(2), rel=1e-5)
    assert [stage["steps"] for stage in summary["stages"]] == [2 * WINDOWS] * 2
    assert all(stage["time_sg_error"] > 0 for stage in summary["stages"])
    assert all(weight.isfinite().all() for weight in load_all(job.out, 2).values())


@pytest.mark.parametrize(
    ("rule", "end", "at"),
    [("cdni", "dni", 11), ("delayed", "dni-permuted", 11), ("cdni", "dni-permuted", WINDOWS)],
)
def test_a_resumed_run_equals_the_uninterrupted_run_to_the_bit(
    text: str, rule: str, end: str, at: int
) -> None:
    """From within an epoch, and from between two, where sequences start anew."""
    known, settings = task(text, end=end), config(2, rule=rule)
    data = data_of(known, settings)
    plan = make_plan(settings, known, data, 2)
    parts: dict[tuple[int, int], State] = {}

    def run(start: int) -> list[Stage]:
        stages = [build_stage(settings, known, plan, i, torch.device("cpu"))[0] for i in range(2)]
        simulation = Simulation(stages)
        for i, stage in enumerate(stages):
            if start:
                stage.load_state_dict(parts[start, i])
                simulation.targets[i].extend(targets_under_way(parts[start, i]))
            else:
                stage.save_checkpoint = lambda step, part, i=i: parts.update({(step, i): part}) or {}  # type: ignore[misc]
        messages = messages_of(data, settings, position=StreamPosition(start), checkpoint_every=11)
        simulation.run(messages, downstream_first)
        return stages

    whole = run(0)
    assert equal(weights_of(run(at)), weights_of(whole))
    for i in range(2):
        parts[at, i]["running"] = parts[2 * WINDOWS, i]["running"]
    other = weights_of(run(at))
    assert not equal(other, weights_of(whole))  # the state matters


def test_the_best_validation_text_decides_which_weights_are_tested(text: str) -> None:
    known, settings = task(text), config(2, rule="oracle", patience=1, epochs=3, lr=0.3)
    parts, markers = simulated(known, settings, 2)
    nats = [marker.body["result"]["test_loss"] for marker in markers[:-2]]
    assert len(nats) == 3 and all(stage.best for stage in parts)
    best = next(i for i in range(3) if i == 2 or nats[i + 1] >= nats[i])
    for stage in parts:
        assert stage.best and stage.best.patience.best_at == (best + 1) * WINDOWS
        assert equal(list(stage.layers.state_dict().values()), list(stage.best.weights.values()))
    tested = markers[-1].body["result"]
    assert tested["tested"] == len(known.data(None)[1]) and tested["test_loss"] > 0


def test_evaluation_carries_its_state_through_the_whole_text(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.text.layered.EVALUATION_STEPS", 10)
    known = task(text)
    (stage,), markers = simulated(known, config(1), 1)
    x, y = (tensor.flatten().unsqueeze(0) for tensor in known.data(None)[1].tensors)
    with torch.no_grad():
        loss = known.loss(stage.layers.eval()(x), y).item()
    assert x.shape[1] == 60 and markers[-2].body["result"]["tested"] == x.shape[1] // 10
    assert markers[-2].body["result"]["test_loss"] == pytest.approx(loss, rel=1e-5)


@pytest.mark.slow
def test_a_trained_stack_loads_as_one_model(text: str) -> None:
    trained = fit(task(text), stages=2, cut="2", epochs=1, batch_size=8)
    symbols = trained.summary["facts"]["symbols"]
    assert trained.model(torch.zeros(2, 9, dtype=torch.long)).shape == (2, 9, symbols)


@pytest.mark.slow
def test_engines_are_compared_and_those_that_split_batches_are_refused(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["--task", "char-lm-stack", "--task-args", f"text={text}", "width=12", "bptt=7"]
    arguments += ["--engines", "backprop", "cdni", "1f1b", "--batch-size", "8", "--epochs", "1"]
    monkeypatch.setattr("sys.argv", ["compare", *arguments, "--cut", "2", "--out", str(tmp_path), "--quiet"])
    compare(RankRunner())
    rows = {row["engine"]: row for row in json.loads((tmp_path / "compare.json").read_text())["rows"]}
    assert rows["cdni"]["speedup"] > 0 and 0 < rows["backprop"]["test_bits_per_char"] < 6
    assert "carry state from batch to batch" in rows["1f1b"]["error"]
