"""Decoupled stages learn as well as backprop: real MNIST, real processes, the floors of the issue.

make test-slow
"""

from __future__ import annotations

from pathlib import Path
from statistics import mean, median
from typing import Any

import pytest

from dni_async.networks.settings import SGConfig
from launch.fit import fit

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

NOISE = 0.0025
"""How much accuracies of neighbouring epochs differ by chance."""


def accuracies(root: Path, task: str, **settings: Any) -> list[float]:
    """Final test accuracy of two seeds."""
    settings = {"epochs": 5, "data_root": str(root)} | settings
    runs = [fit(task, seed=seed, **settings) for seed in (0, 1)]
    for run in runs:
        stages = run.summary["stages"]
        assert len({stage["samples"] for stage in stages}) == 1
        sent, received = ([stage[f"targets_{kind}"] for stage in stages] for kind in ("sent", "received"))
        assert sent[1:] == received[:-1]
    return [run.summary["final"]["test_accuracy"] for run in runs]


@pytest.mark.parametrize(
    ("settings", "floor"),
    [
        ({"stages": 2}, 0.980),
        ({"stages": 3}, 0.978),
        ({"stages": 1, "engine": "backprop"}, 0.976),
    ],
    ids=["two stages", "three stages with replay", "backprop"],
)
def test_fully_connected_mnist_reaches_its_floor(
    data_root: Path, settings: dict[str, Any], floor: float
) -> None:
    scores = accuracies(data_root, "mnist-fcn", **settings)
    assert mean(scores) >= floor and min(scores) >= floor - NOISE, scores


@pytest.mark.parametrize("cut", ["9", "5,9,13"], ids=["two stages", "four stages"])
def test_the_lower_stages_of_a_residual_network_learn(data_root: Path, cut: str) -> None:
    """Untrained lower stages are a strong control here: the last of two stages alone gets 96.1 %."""
    settings = {
        "task_args": ("subset=20000",),
        "batch_size": 128,
        "schedule": "linear",
        "epochs": 3,
        "cut": cut,
        "stages": cut.count(",") + 2,
    }
    decoupled = mean(accuracies(data_root, "mnist-residual", **settings))
    frozen = mean(accuracies(data_root, "mnist-residual", rule="frozen", **settings))
    assert decoupled >= frozen + 0.004, (decoupled, frozen)


@pytest.mark.parametrize(("cut", "ceiling", "gap"), [("3", 3.06, 0.20), ("2,3,4", 3.10, 0.30)])
def test_the_lower_stages_of_a_transformer_learn_with_the_token_head(
    data_root: Path, cut: str, ceiling: float, gap: float
) -> None:
    """1,000 steps on tiny shakespeare, bits per character; backprop reaches 3.01."""
    settings = {"task_args": ("windows=8000",), "epochs": 1, "cut": cut, "stages": cut.count(",") + 2}
    found = {}
    for rule in ("cdni", "frozen"):
        run = fit("gpt-char", rule=rule, data_root=str(data_root), **settings)
        assert {stage["samples"] for stage in run.summary["stages"]} == {8000}
        found[rule] = run.summary["final"]["test_bits_per_char"]
    assert found["cdni"] <= ceiling, found
    assert found["cdni"] <= found["frozen"] - gap, found


def test_attention_in_the_head_learns_what_stands_at_other_positions() -> None:
    """1,500 steps, bits per symbol, where learning is a sudden drop that comes at any time; backprop has
    0.7 to 1.4, the head of one position 2.5."""
    settings = {"stages": 2, "cut": "2", "epochs": 1}
    found = {}
    for kind, seeds in (("token-attention", (0, 1, 2)), ("token-head", (0,))):
        runs = [fit("induction", sg=SGConfig(kind=kind), seed=seed, **settings) for seed in seeds]
        found[kind] = median(run.summary["final"]["test_bits_per_symbol"] for run in runs)
    assert found["token-attention"] <= 1.0, found
    assert found["token-head"] >= 2.0, found


def test_three_convolutional_stages_learn_like_backprop_and_frozen_ones_do_not(data_root: Path) -> None:
    cnn = {"task_args": ("filters=8", "subset=10000"), "batch_size": 64, "epochs": 3}
    decoupled = mean(accuracies(data_root, "mnist-cnn", stages=3, **cnn))
    frozen = mean(accuracies(data_root, "mnist-cnn", stages=3, rule="frozen", **cnn))
    backprop = mean(accuracies(data_root, "mnist-cnn", stages=1, engine="backprop", **cnn))
    assert decoupled > frozen + 0.02, (decoupled, frozen)
    assert decoupled > backprop - 0.015, (decoupled, backprop)


def test_the_busiest_of_two_stages_computes_nine_tenths_of_the_time(data_root: Path) -> None:
    run = fit("mnist-fcn", stages=2, epochs=2, data_root=str(data_root))
    assert max(stage["utilisation"] for stage in run.summary["stages"]) >= 0.85, run.summary["stages"]
    assert run.summary["overlap"] > 0.3
