"""The wrapper as an engine."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dni_async import CDNI, DNI
from dni_async.errors import UserError
from dni_async.messages import MarkerKind
from dni_async.networks.settings import SGConfig
from launch.config.task import TaskConfig
from launch.config.train import TrainConfig
from launch.engines.backprop import Backprop
from launch.engines.wrapper import DniLocal, inner_layers
from launch.job.layers import build_layers
from tasks.vision.digits import DigitsFcn
from tests.support.forks import Job
from tests.support.tiny_task import CLASSES, Tiny, context_of, plain_layers
from tests.support.tree_tasks import TREE_TASKS
from workers.coordination.collectives import Peers


def trained(engine, make=DniLocal, task=None, **settings):
    """(loop after training, markers)."""
    config = TrainConfig.of(**{"engine": engine, "batch_size": 16, "epochs": 2, "lr": 0.01} | settings)
    context = context_of(task or Tiny(plain_layers), config)
    loop = make(context, Peers(context.rendezvous))
    markers = []
    loop.train(markers.append)
    return loop, markers


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("engine", ["dni-local", "cdni-local"])
def test_every_layer_but_the_last_learns_from_its_sg_network(engine, precision):
    loop, markers = trained(engine, epochs=3, precision=precision)
    assert isinstance(loop.dni, CDNI) == (engine == "cdni-local")
    start = nn.Sequential(*build_layers(Tiny(plain_layers), TaskConfig(seed=0)))
    for (name, after), before in zip(loop.module.named_parameters(), start.parameters(), strict=True):
        assert not torch.equal(after, before), name
    stage = markers[-1].body["0"]
    assert list(stage["interfaces"]) == ["0", "1", "2", "3"]
    assert all(row["updates"] == 12 and row["sg_updates"] == 12 * 3 for row in stage["interfaces"].values())
    errors = [row["relative_error"] for row in stage["interfaces"].values()]
    assert stage["sg_relative_error"] == sum(errors) / 4 and min(errors) > 0
    assert -1 <= stage["sg_cosine"] <= 1 and markers[-1].kind is MarkerKind.STOP


def exact(context, peers):
    """The engine with λ = 1."""
    loop = DniLocal(context, peers)
    loop.dni._shared.mix = 1.0
    return loop


def test_the_wrapper_equals_backprop_when_no_gradient_is_synthetic():
    """Same initial weights, order of batches and optimizer: with λ = 1 the same weights to the bit."""
    ours, _ = trained("cdni-local", exact)
    plain, _ = trained("backprop", Backprop)
    pairs = zip(ours.module.state_dict().values(), plain.module.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("conditional", [False, True])
def test_the_engine_trains_as_the_wrapper_in_a_plain_loop(conditional):
    """The same network, batches and optimizer: weights and SG networks of a loop by hand, to the bit."""
    engine, _ = trained("cdni-local" if conditional else "dni-local", epochs=3)
    network = nn.Sequential(*build_layers(Tiny(plain_layers), TaskConfig(seed=0)))
    opt = torch.optim.Adam(network.parameters(), lr=0.01, fused=True)
    settings = {"optim": opt, "grad_lr": None, "λ": 0, "layers": ["0", "1", "2", "3"]}
    net = CDNI(network, label_size=CLASSES, **settings) if conditional else DNI(network, **settings)
    for epoch in (1, 2, 3):
        for x, y in engine.data.training(epoch):
            if conditional:
                net.register_labels(y)
            F.cross_entropy(net(x), y).backward()
    pairs = list(zip(engine.dni.state_dict().values(), net.state_dict().values(), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs) and len(pairs) > len(network.state_dict())


@pytest.mark.parametrize("name", TREE_TASKS)
def test_layers_that_exchange_trees_equal_backprop_when_no_gradient_is_synthetic(name):
    ours, _ = trained("cdni-local", exact, TREE_TASKS[name])
    plain, _ = trained("backprop", Backprop, TREE_TASKS[name])
    pairs = zip(ours.module.state_dict().values(), plain.module.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("engine", ["dni-local", "cdni-local"])
@pytest.mark.parametrize("name", TREE_TASKS)
def test_layers_that_exchange_trees_learn_from_synthetic_gradients(name, engine):
    _, markers = trained(engine, task=TREE_TASKS[name], epochs=12)
    first, *_, last, _ = [marker.body["result"]["loss"] for marker in markers]
    assert last < first
    rows = markers[-1].body["0"]["interfaces"].values()
    assert all(row["updates"] == 12 * 4 and row["sg_updates"] >= 12 * 4 for row in rows)


def test_the_wrapper_engine_runs_as_a_job(tmp_path):
    config = TrainConfig.of(engine="dni-local", batch_size=64, epochs=1)
    with Job(config, DigitsFcn(depth=3, width=32), 1, tmp_path) as job:
        assert job.statuses() == [0], job.lines()
    summary = json.loads((job.out / "summary.json").read_text())
    assert summary["engine"] == "dni-local" and summary["samples_per_s"] > 0
    (stage,) = summary["stages"]
    assert stage["sg_relative_error"] >= 0 and len(stage["interfaces"]) >= 2


def test_sg_settings_of_the_command_line_reach_the_wrapper():
    loop, _ = trained("dni-local", epochs=1, sg=SGConfig(kind="mlp", optimizer="sgd", lr=0.5, replay=0))
    made = loop.dni.interfaces["0"].synthesizer
    assert type(made.network).__name__ == "MlpSG" and type(made.optimizer).__name__ == "SGD"
    assert made.optimizer.param_groups[0]["lr"] == 0.5 and made.replay == 0


def test_a_network_of_one_layer_is_refused():
    with pytest.raises(UserError, match="1 of the task's layers have parameters; decoupling needs two"):
        inner_layers([nn.Linear(2, 2), nn.ReLU()])
