"""DESIGN idea 2 in real processes: with an oracle, a decoupled run is sequential backprop to the bit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from launch.config.task import TaskConfig
from launch.config.train import TrainConfig
from launch.job.data import Data
from launch.job.layers import build_layers
from launch.report.weights import load_all
from tasks.vision.digits import DigitsFcn
from tests.support.baselines import backprop
from tests.support.forks import Job
from tests.support.tiny_task import CLASSES, FEATURES, Tiny
from tests.support.tree_tasks import TREE_TASKS

EPOCHS, BATCH, SEED = 2, 100, 3


@pytest.fixture(scope="module")
def textbook() -> dict[str, Tensor]:
    """The weights that the loop in everybody's textbook ends with."""
    torch.set_num_threads(1)
    task = DigitsFcn(depth=4, width=48)
    data = Data(*task.data(None), BATCH, SEED)
    model = nn.Sequential(*build_layers(task, TaskConfig(seed=SEED)))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    for epoch in range(1, EPOCHS + 1):
        for x, y in data.training(epoch):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
    return model.state_dict()


def trained(
    folder: Path,
    stages: int,
    rule: str,
    transport: str = "auto",
    stash: int | None = None,
    precision: str = "fp32",
) -> tuple[dict[str, Tensor], list[str]]:
    """Weights of a run in `stages` processes, and the transports of its links."""
    config = TrainConfig.of(
        rule=rule,
        epochs=EPOCHS,
        batch_size=BATCH,
        seed=SEED,
        transport=transport,
        trust_network=True,
        stash=stash,
        precision=precision,
    )
    with Job(config, DigitsFcn(depth=4, width=48), stages, folder) as job:
        assert job.statuses() == [0] * stages, job.lines()
    summary = json.loads((job.out / "summary.json").read_text())
    return load_all(job.out, stages), summary["transports"]


@pytest.mark.parametrize(
    ("stages", "transport"),
    [
        (1, "auto"),
        pytest.param(2, "shm", marks=pytest.mark.slow),
        (3, "shm"),
        pytest.param(2, "dist", marks=pytest.mark.slow),
        pytest.param(3, "dist", marks=pytest.mark.slow),
        (2, "rpc"),
        pytest.param(3, "rpc", marks=pytest.mark.slow),
        (4, "shm,dist,rpc"),
        (3, "tcp"),
    ],
)
def test_an_oracle_makes_the_pipeline_equal_to_backprop_to_the_bit(
    textbook: dict[str, Tensor], tmp_path: Path, stages: int, transport: str
) -> None:
    weights, transports = trained(tmp_path, stages, "oracle", transport)
    assert weights.keys() == textbook.keys()
    assert [name for name in textbook if not torch.equal(weights[name], textbook[name])] == []
    assert transports == (transport.split(",") if "," in transport else [transport] * (stages - 1))


def test_the_oracle_is_exact_in_bf16_too(textbook: dict[str, Tensor], tmp_path: Path) -> None:
    weights, _ = trained(tmp_path, 3, "oracle", "shm,dist", precision="bf16")
    assert any(not torch.equal(weights[name], textbook[name]) for name in textbook)
    assert {name: w.dtype for name, w in weights.items()} == {name: w.dtype for name, w in textbook.items()}


def test_an_oracle_draws_the_random_numbers_of_the_stages_downstream(tmp_path: Path) -> None:
    """There is dropout in stages 0 and 1: with other masks, a replica predicts other gradients."""
    config = TrainConfig.of(rule="oracle", epochs=2, batch_size=10, cut="2,4")
    with Job(config, Tiny(with_dropout), 3, tmp_path) as job:
        assert job.statuses() == [0] * 3, job.lines()


@pytest.mark.parametrize("stages", [pytest.param(2, marks=pytest.mark.slow), 3])
@pytest.mark.parametrize("transport", ["shm", pytest.param("tcp", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "name",
    ["masked", *(pytest.param(name, marks=pytest.mark.slow) for name in TREE_TASKS if name != "masked")],
)
def test_stages_that_exchange_trees_equal_backprop_to_the_bit(
    tmp_path: Path, name: str, stages: int, transport: str
) -> None:
    task = TREE_TASKS[name]
    cut = {2: "2", 3: "1,3"}[stages]
    config = TrainConfig.of(rule="oracle", epochs=2, batch_size=8, cut=cut, transport=transport)
    with Job(config, task, stages, tmp_path) as job:
        assert job.statuses() == [0] * stages, job.lines()
    weights, (wanted, _) = load_all(job.out, stages), backprop(task, config)
    assert [key for key in wanted if not torch.equal(weights[key], wanted[key])] == []


def with_dropout() -> list[nn.Module]:
    return [nn.Linear(FEATURES, 8), nn.Dropout(0.5), nn.Linear(8, 7), nn.Dropout(0.5), nn.Linear(7, CLASSES)]


def test_delayed_gradients_with_room_for_one_batch_equal_backprop_to_the_bit(
    textbook: dict[str, Tensor], tmp_path: Path
) -> None:
    weights, _ = trained(tmp_path, 3, "delayed", "shm,dist", stash=1)
    assert [name for name in textbook if not torch.equal(weights[name], textbook[name])] == []


def test_without_an_oracle_the_weights_differ(textbook: dict[str, Tensor], tmp_path: Path) -> None:
    """So the comparison above can fail."""
    weights, _ = trained(tmp_path, 2, "cdni")
    assert not torch.equal(weights["0.0.weight"], textbook["0.0.weight"])


@pytest.mark.parametrize("rule", ["cdni", pytest.param("delayed", marks=pytest.mark.slow)])
def test_lock_step_gives_the_same_weights_again(tmp_path: Path, rule: str) -> None:
    settings = {"deterministic": True, "cut": "2,4"}
    config = TrainConfig.of(rule=rule, epochs=EPOCHS, batch_size=BATCH, seed=SEED, **settings)
    runs = []
    for name in ("first", "second"):
        with Job(config, DigitsFcn(depth=4, width=48), 3, tmp_path / name) as job:
            assert job.statuses() == [0] * 3, job.lines()
        runs.append(load_all(job.out, 3))
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])
