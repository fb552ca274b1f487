"""Labels of several tensors, keyword arguments of modules, and labels that are no class."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage
from torch.nn import functional as F

from dni_async.errors import UserError
from launch.schedule import ScheduleDNI
from tests.support.group_ranks import run_ranks, stage_of
from tests.support.stages import CLASSES, FEATURES, fcn, same_bits

STEPS = 30


class Masked(nn.Module):
    """A layer that takes a mask as a keyword argument, and a factor that may be left out."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        torch.manual_seed(rank)
        self.own = nn.Linear(FEATURES, CLASSES if rank else FEATURES)

    def forward(self, x: Tensor, *, mask: Tensor, factor: float = 1.0) -> Tensor:
        return self.own(x * mask) * factor


def weighted_loss(output: Tensor, targets: dict[str, Any]) -> Tensor:
    rows = F.cross_entropy(output, targets["class"], reduction="none")
    return (rows * targets["weights"][0]).mean()


def batch(step: int) -> tuple[Tensor, dict[str, Any], list[dict[str, Any]]]:
    """Return inputs, targets, and the keyword arguments of both modules."""
    generator = torch.Generator().manual_seed(step)
    x, weights = torch.randn(16, FEATURES, generator=generator), torch.rand(16, generator=generator)
    mask = (torch.rand(16, FEATURES, generator=generator) > 0.1).float()
    targets = {"class": x[:, :CLASSES].argmax(1), "weights": (weights,)}
    return x, targets, [{"mask": mask}, {"mask": 1 - mask / 2, "factor": 1.0 + step}]


def train(rank: int, rule: str, labels: str) -> tuple[dict[str, Tensor], Tensor, list[Tensor]]:
    module = Masked(rank)
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    stage = PipelineStage(module, rank, 2, torch.device("cpu"))
    schedule = ScheduleDNI(
        stage, loss_fn=weighted_loss, optimizer=optimizer, rule=rule, stash=1, timeout=20.0, classes=CLASSES
    )
    losses: list[Tensor] = []
    for step in range(STEPS):
        x, targets, keywords = batch(step)
        given = targets if rank == ("first", "last").index(labels) else None
        schedule.step(*([] if rank else [x]), target=given, losses=losses, **keywords[rank])
    schedule.drain()
    weights = {name: value.clone() for name, value in module.state_dict().items()}
    output = schedule.eval(*([] if rank else [x]), target=given, losses=losses, **keywords[rank])
    schedule.drain()
    schedule.close()
    return weights, output, losses


@pytest.mark.parametrize(("rule", "labels"), [("delayed", "first"), ("delayed", "last"), ("cdni", "last")])
def test_dicts_of_labels_and_keyword_arguments_reach_every_module(rule: str, labels: str) -> None:
    (first, *_), (last, output, losses) = run_ranks(partial(train, rule=rule, labels=labels), 2)
    modules = [Masked(0), Masked(1)]
    if rule == "delayed":  # with room for one batch: backprop, to the bit
        optimizers = [torch.optim.SGD(module.parameters(), 0.1) for module in modules]
        for step in range(STEPS):
            x, targets, keywords = batch(step)
            weighted_loss(modules[1](modules[0](x, **keywords[0]), **keywords[1]), targets).backward()
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
        trained = [*modules[0].state_dict().values(), *modules[1].state_dict().values()]
        assert same_bits([*first.values(), *last.values()], trained)
    for module, weights in zip(modules, (first, last), strict=True):
        module.load_state_dict(weights)
    x, targets, keywords = batch(STEPS - 1)
    wanted = modules[1](modules[0](x, **keywords[0]), **keywords[1])
    assert torch.equal(output, wanted) and torch.equal(losses[0], weighted_loss(wanted, targets))


def mislabel(rank: int, rule: str, label: int) -> None:
    """The second batch has a label that is no class."""
    stage = stage_of(fcn(), rank, 2)
    optimizer = torch.optim.SGD(stage.submod.parameters(), 0.1)
    schedule = ScheduleDNI(stage, loss_fn=F.cross_entropy, optimizer=optimizer, rule=rule, timeout=20.0)
    y = torch.arange(16) % CLASSES
    for labels in (y, y.index_fill(0, torch.tensor([3]), label)):
        schedule.step(*([] if rank else [torch.randn(16, FEATURES)]), target=labels)
    schedule.drain()


@pytest.mark.parametrize(("rule", "label"), [("dni", CLASSES), ("cdni", -1)])
def test_a_label_outside_the_classes_is_named_with_their_range(rule: str, label: int) -> None:
    for line in run_ranks(partial(mislabel, rule=rule, label=label), 2):
        assert f"label {label} is outside the classes 0 to {CLASSES - 1}" in line, line
        assert "at step 1" in line and "\n" not in line


def change_structure(rank: int) -> str:
    stage = stage_of(fcn(), 0, 1)
    schedule = ScheduleDNI(stage, loss_fn=lambda output, y: F.cross_entropy(output, y["y"]), optimizer=None)
    x, y = torch.randn(16, FEATURES), torch.arange(16) % CLASSES
    schedule.step(x, target={"y": y})
    try:
        schedule.step(x, target=(y, y))
    except UserError as error:
        return str(error)
    return ""


def test_labels_of_another_structure_than_the_first_are_refused() -> None:
    (line,) = run_ranks(change_structure, 1)
    assert "for target" in line and "{y: tensor}" in line and "(tensor, tensor)" in line
