from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dni_async.errors import UserError
from dni_async.messages import TargetGradient
from dni_async.optim import optimizer_factory
from dni_async.rules import LocalRule
from dni_async.stage.simulation import Simulation
from tests.support.stages import (
    CLASSES,
    WIDTH,
    accuracy,
    batches,
    pipeline,
    same_bits,
    state_of,
    with_stop,
)


def rule(lr: float = 3e-3, seed: int = 0) -> LocalRule:
    torch.manual_seed(seed)
    head = nn.Sequential(nn.Linear(WIDTH, 8), nn.ReLU(), nn.Linear(8, CLASSES))
    return LocalRule(head, optimizer_factory("adam", lr)(list(head.parameters())), F.cross_entropy, accuracy)


def batch(rows: int) -> tuple[Tensor, Tensor]:
    return torch.randn(rows, WIDTH, generator=torch.Generator().manual_seed(3)), torch.arange(rows) % CLASSES


def test_the_gradient_is_that_of_the_heads_loss_before_its_step() -> None:
    local, (h, y) = rule(), batch(6)
    leaf = h.clone().requires_grad_()
    F.cross_entropy(local.head(leaf), y).backward()
    local.head.zero_grad()
    gradient = local.gradient(0, 0, h, y)
    assert leaf.grad is not None
    assert torch.equal(gradient, leaf.grad)
    assert not gradient.requires_grad


def test_the_head_takes_its_optimizers_step() -> None:
    local, (h, y) = rule(), batch(6)
    head = copy.deepcopy(local.head)
    F.cross_entropy(head(h), y).backward()
    optimizer_factory("adam", 3e-3)(list(head.parameters())).step()
    local.gradient(0, 0, h, y)
    assert same_bits(list(local.head.parameters()), list(head.parameters()))
    assert [p.grad for p in local.head.parameters()] == [None] * 4


def test_the_rule_leaves_h_unchanged() -> None:
    local, (h, y) = rule(), batch(6)
    before = h.clone()
    local.gradient(0, 0, h, y)
    assert torch.equal(h, before)
    assert (h.requires_grad, h.grad) == (False, None)


def test_the_rule_needs_no_targets_and_ignores_them() -> None:
    local = rule()
    assert (local.capabilities.needs_targets, local.capabilities.updates, local.phase) == (
        False,
        True,
        "head",
    )
    local.take_target(TargetGradient(0, 0, torch.zeros(2, 5)), 0)
    assert local.stats() == {"local_loss": None, "local_accuracy": None}


def test_a_report_shows_the_means_over_samples_since_the_epoch_began() -> None:
    local, (h, y) = rule(lr=1e-30), batch(47)
    for rows in (slice(0, 30), slice(30, 47)):
        local.gradient(0, 0, h[rows], y[rows])
    with torch.no_grad():
        output = local.head(h)
    assert local.stats()["local_loss"] == pytest.approx(float(F.cross_entropy(output, y)))
    assert local.stats()["local_accuracy"] == pytest.approx(float(accuracy(output, y).mean()))
    local.new_epoch()
    assert local.stats() == {"local_loss": None, "local_accuracy": None}


def test_a_loss_that_is_not_finite_is_the_users_to_mend() -> None:
    local, (h, y) = rule(), batch(4)
    h[2, 1] = float("nan")
    with pytest.raises(UserError) as error:
        local.gradient(3, 3, h, y)
    assert str(error.value) == (
        "the local loss is nan; lower --lr or --local.lr or set --clip-norm, and check the data"
    )
    assert local.stats()["local_loss"] is None


def test_local_stages_learn_and_no_targets_travel() -> None:
    before, stages = pipeline(cut=(1, 2), rule=rule), pipeline(cut=(1, 2), rule=rule)
    simulation = Simulation(stages).run(with_stop(batches([30, 30, 17])))
    assert [stage.samples for stage in stages] == [77] * 3
    assert [stage.version for stage in stages] == [3] * 3
    assert [(stage.targets_sent, stage.targets_received) for stage in stages] == [(0, 0)] * 3
    assert [stage for stage, queue in simulation.moves if queue == "target"] == [1, 0]  # the marker
    for old, new in zip(before, stages, strict=True):
        assert not same_bits(state_of([old]), state_of([new]))


def test_a_stage_is_trained_as_a_network_with_its_head() -> None:
    """Bit for bit: what comes after the stage has no say."""
    stages = pipeline(cut=(1,), rule=rule)
    alone, local = copy.deepcopy(stages[0].layers), copy.deepcopy(stages[0].rule.head)
    messages = batches([30, 30, 17])
    Simulation(stages).run(with_stop(messages))
    optimizers = [
        optimizer_factory("adam", lr)(list(module.parameters()))
        for lr, module in ((1e-2, alone), (3e-3, local))
    ]
    for message in messages:
        F.cross_entropy(local(alone(message.h)), message.y).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    assert same_bits(state_of(stages[:1]), list(alone.state_dict().values()))
