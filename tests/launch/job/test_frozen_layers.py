"""Frozen layers, layers without weights, adapters, and layers that give their input no gradient."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from launch.config.train import TrainConfig
from launch.report.weights import load_all
from tests.support.baselines import backprop
from tests.support.forks import Job
from tests.support.tiny_task import CLASSES, FEATURES, Tiny, simulated

WIDTH = 8
RULES = ["cdni", "dni", "delayed", "local", "frozen", "oracle"]


def linear(inputs: int, outputs: int, *, frozen: bool = False) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, outputs), nn.Tanh()).requires_grad_(not frozen)


class Adapter(nn.Module):
    """A frozen linear layer beside a trained one of rank 2 (LoRA, Hu et al. 2021)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.base = nn.Linear(inputs, outputs).requires_grad_(False)
        self.a, self.b = nn.Linear(inputs, 2, bias=False), nn.Linear(2, outputs, bias=False)
        nn.init.zeros_(self.b.weight)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.base(x) + self.b(self.a(x)))


class Rounded(nn.Module):
    """Steps of a half, whose gradient is zero everywhere."""

    def forward(self, x: Tensor) -> Tensor:
        return (x * 2).round() / 2


class Detached(nn.Module):
    """Its output does not depend on its input, as far as autograd knows."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.detach())


class Constant(nn.Module):
    """A stage without weights whose output needs no gradient at all."""

    def forward(self, x: Tensor) -> Tensor:
        return x.detach().sign()


def with_middle(*middle: nn.Module, first_frozen: bool = False, last_frozen: bool = False) -> list[nn.Module]:
    first, last = linear(FEATURES, WIDTH, frozen=first_frozen), nn.Linear(WIDTH, CLASSES)
    return [first, *middle, last.requires_grad_(not last_frozen)]


NETWORKS: dict[str, Callable[[], list[nn.Module]]] = {
    "frozen first stage": lambda: with_middle(linear(WIDTH, WIDTH), first_frozen=True),
    "frozen middle stage": lambda: with_middle(linear(WIDTH, WIDTH, frozen=True)),
    "frozen last stage": lambda: with_middle(linear(WIDTH, WIDTH), last_frozen=True),
    "all but the last frozen": lambda: with_middle(linear(WIDTH, WIDTH, frozen=True), first_frozen=True),
    "stage without weights": lambda: with_middle(nn.ReLU()),
    "adapters": lambda: [Adapter(FEATURES, WIDTH), Adapter(WIDTH, WIDTH), Adapter(WIDTH, CLASSES)],
    "rounded": lambda: with_middle(Rounded()),
    "detached": lambda: with_middle(Detached()),
    "no gradient": lambda: with_middle(Constant()),
}


class Network(Tiny):
    """The network of this name, on the data of `Tiny`."""

    def __init__(self, network: str) -> None:
        super().__init__()
        self.network = network

    def layers(self) -> list[nn.Module]:
        return NETWORKS[self.network]()


def of_all(stages: list) -> dict[str, Tensor]:
    return {
        f"{i}.{name.partition('.')[2]}": tensor
        for i, stage in enumerate(stages)
        for name, tensor in stage.layers.state_dict().items()
    }


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", NETWORKS)
def test_every_rule_trains_what_is_not_frozen(name: str, rule: str) -> None:
    task = Network(name)
    config = TrainConfig.of(rule=rule, epochs=3, batch_size=10, cut="1,2", lr=1e-2)
    before = of_all(simulated(task, config.changed(lr=1e-30), 3)[0])
    after = of_all(simulated(task, config, 3)[0])
    assert before.keys() == after.keys()
    assert all(torch.isfinite(tensor).all() for tensor in after.values())
    trained = {
        f"{i}.{each}"
        for i, layer in enumerate(task.layers())
        for each, parameter in layer.named_parameters()
        if parameter.requires_grad
    }
    moved = {each for each in after if not torch.equal(before[each], after[each])}
    assert moved <= trained
    if rule == "frozen":
        assert all(each.startswith("2.") for each in moved)
    else:
        unreached = {"rounded": "0.", "detached": "0.", "no gradient": "0."}
        known = {each for each in trained if not each.startswith(unreached.get(name, "none"))}
        assert known <= moved, known - moved


@pytest.mark.parametrize("name", NETWORKS)
def test_an_oracle_equals_backprop_to_the_bit(name: str) -> None:
    task = Network(name)
    config = TrainConfig.of(rule="oracle", epochs=2, batch_size=10, cut="1,2", lr=1e-2)
    weights, (textbook, _) = of_all(simulated(task, config, 3)[0]), backprop(task, config)
    assert weights.keys() == textbook.keys()
    assert all(torch.equal(weights[each], textbook[each]) for each in weights)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["cdni", "delayed", "local", "1f1b", "gpipe", "ddp", "cdni-local"])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_engine_trains_in_processes(name: str, engine: str, tmp_path: Path) -> None:
    chosen = {"rule": engine} if engine in RULES else {"engine": engine}
    stages = 1 if engine == "cdni-local" else 3
    cut = {} if engine in ("ddp", "cdni-local") else {"cut": "1,2"}
    config = TrainConfig.of(epochs=2, batch_size=15, lr=1e-2, micro_batches=3, **chosen, **cut)
    with Job(config, Network(name), stages, tmp_path) as job:
        assert job.statuses() == [0] * stages, job.lines()
    weights = load_all(job.out, 3 if cut else 1)
    assert all(torch.isfinite(tensor).all() for tensor in weights.values())
    if engine in ("1f1b", "gpipe"):
        textbook, _ = backprop(Network(name), config)
        for each, value in textbook.items():
            torch.testing.assert_close(weights[each], value, rtol=1e-4, atol=1e-6)
