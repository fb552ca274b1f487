"""Sequential backprop is the textbook loop."""

import itertools
import time

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dni_async.errors import UserError
from dni_async.messages import MarkerKind
from launch.config.task import TaskConfig
from launch.config.train import TrainConfig
from launch.engines import baseline_loop as loop
from launch.engines.backprop import Backprop
from launch.job.layers import build_layers
from tests.support.tiny_task import Tiny, context_of
from workers.coordination.collectives import Peers
from workers.runtime.probe import Probe


def config_of(**settings):
    return TrainConfig.of(**{"engine": "backprop", "batch_size": 16, "epochs": 2, "seed": 3} | settings)


def train(config, task=None):
    """(trained network, markers)."""
    markers = []
    task = task or Tiny()
    context = context_of(task, config)
    engine = Backprop(context, Peers(context.rendezvous))
    engine.train(markers.append)
    return engine.module, markers


def textbook(config, make_optimizer, clip=None):
    """(trained network, [(loss, test loss, test accuracy) of each epoch])."""
    task = Tiny()
    (x, y), (test_x, test_y) = (dataset.tensors for dataset in task.data())
    model = nn.Sequential(*build_layers(task, config.task))
    optimizer, schedule = make_optimizer(model.parameters())
    torch.manual_seed(config.task.seed + 1)
    epochs = []
    for epoch in range(1, config.task.epochs + 1):
        order = torch.randperm(
            len(x), generator=torch.Generator().manual_seed(config.task.seed * 1_000_003 + epoch)
        )
        model.train()
        total = 0.0
        for index in order.split(config.task.batch_size):
            loss = F.cross_entropy(model(x[index]), y[index])
            total += loss.item() * len(index)
            optimizer.zero_grad()
            loss.backward()
            if clip:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            if schedule:
                schedule.step()
        model.eval()
        with torch.no_grad():
            output = model(test_x)
        accuracy = (output.argmax(1) == test_y).float().mean().item()
        epochs.append((total / len(x), F.cross_entropy(output, test_y).item(), accuracy))
    return model, epochs


def adam(parameters):
    return torch.optim.Adam(parameters, lr=0.01, fused=True), None


def momentum(parameters):
    optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9, fused=True)
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / 8)


@pytest.mark.parametrize(
    ("settings", "make_optimizer", "clip"),
    [
        ({"lr": 0.01}, adam, None),
        (
            {
                "optimizer": "sgd",
                "lr": 0.1,
                "optimizer_args": ("momentum=0.9",),
                "schedule": "linear",
                "clip_norm": 0.3,
            },
            momentum,
            0.3,
        ),
    ],
)
def test_the_weights_are_those_of_the_textbook_loop_bit_for_bit(settings, make_optimizer, clip):
    config = config_of(**settings)
    model, markers = train(config)
    wanted, epochs = textbook(config, make_optimizer, clip)
    state, wanted_state = model.state_dict(), wanted.state_dict()
    assert state.keys() == wanted_state.keys()
    for name, value in state.items():
        assert torch.equal(value, wanted_state[name]), name
    results = [m.body["result"] for m in markers if m.kind is MarkerKind.EPOCH]
    for result, (loss, test_loss, accuracy) in zip(results, epochs, strict=True):
        assert result["loss"] == loss
        assert result["test_loss"] == pytest.approx(test_loss, rel=1e-5)
        assert result["test_accuracy"] == pytest.approx(accuracy)
        assert result["tested"] == 20


def test_training_moves_every_weight():
    model, _ = train(config_of(lr=0.01))
    start = nn.Sequential(*build_layers(Tiny(), TaskConfig(seed=3)))
    for (name, after), before in zip(model.named_parameters(), start.parameters(), strict=True):
        assert not torch.equal(after, before), name


def test_a_marker_ends_every_epoch_and_a_last_one_the_run():
    _, markers = train(config_of())
    assert [(m.kind, m.step, m.epoch, m.returning) for m in markers] == [
        (MarkerKind.EPOCH, 4, 1, True),
        (MarkerKind.EPOCH, 8, 2, True),
        (MarkerKind.STOP, 8, 2, True),
    ]


def test_markers_carry_the_results_of_a_single_stage():
    _, markers = train(config_of())
    for step, samples, marker in zip((4, 8, 8), (50, 100, 100), markers, strict=True):
        assert marker.body.keys() == {"result", "0"}
        stage = marker.body["0"]
        assert (stage["index"], stage["steps"], stage["version"], stage["samples"]) == (
            0,
            step,
            step,
            samples,
        )
        assert stage["layers"] == ["0 Sequential", "1 ReLU", "2 Linear", "3 Dropout", "4 Linear"]
        assert stage["parameters"] == (6 * 8 + 8) + 2 * 8 + (8 * 7 + 7) + (7 * 3 + 3)
        assert (stage["threads"], stage["cores"], stage["device"]) == (1, [], "cpu")
        assert stage["targets_sent"] == stage["targets_received"] == 0
        assert stage["peak_rss_bytes"] > 0
        assert 0 < stage["utilisation"] <= 1
    assert ["timeline" in marker.body["0"] for marker in markers] == [False, False, True]
    kinds = {event[0] for event in markers[-1].body["0"]["timeline"]}
    assert {"forward", "backward", "update", "evaluate"} <= kinds
    assert markers[-1].body["result"]["samples_per_s"] > 0


def test_backprop_reports_about_every_second(monkeypatch):
    ticks = itertools.count()
    monkeypatch.setattr(
        loop, "make_probe", lambda gflops, warmup, *_: Probe(warmup, clock=lambda: next(ticks) * 0.25)
    )
    _, markers = train(config_of(epochs=1))
    reports = [m for m in markers if m.kind is MarkerKind.REPORT]
    # five readings of the clock a step: 1.25 s, and one more for the report itself
    assert [(m.step, m.epoch) for m in reports] == [(1, 1), (2, 1), (3, 1), (4, 1)]
    assert all(m.body["result"]["loss"] > 0 and m.body["result"]["test_loss"] is None for m in reports)
    assert all("timeline" not in m.body["0"] for m in reports)


class Diverging(Tiny):
    """Its loss is of no use from the sixth training batch on."""

    def __init__(self, loss):
        super().__init__()
        self.bad, self.calls = loss, 0

    def loss(self, output, y):
        self.calls += torch.is_grad_enabled()
        return super().loss(output, y) + (self.bad if self.calls > 5 else 0.0)


@pytest.mark.parametrize("loss", ["nan", "inf"])
def test_a_loss_out_of_bounds_ends_the_run_and_names_the_step(loss):
    with pytest.raises(UserError) as error:
        train(config_of(), Diverging(float(loss)))
    assert str(error.value) == (
        f"rank 0 (backprop), at step 5: the loss is {loss}; lower --lr or set --clip-norm, and check the data"
    )


def test_backprop_runs_on_emulated_devices_too():
    """Widths 6 8 7 3: forward is 2 products per weight and sample, backward 4 but for the first layer."""
    first, later = 2 * 6 * 8, 2 * (8 * 7 + 7 * 3)
    flops = 50 * (2 * first + 3 * later)
    start = time.perf_counter()
    _, markers = train(config_of(epochs=1, emulate_gflops=flops / 0.2 / 1e9))
    assert time.perf_counter() - start > 0.2
    stage = markers[-1].body["0"]
    assert 0 <= stage["emulation_overrun"] < 1
    plain, _ = train(config_of(epochs=1))
    emulated, _ = train(config_of(epochs=1, emulate_gflops=1e3))
    states = zip(plain.state_dict().values(), emulated.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in states)
