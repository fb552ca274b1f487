"""When things happen: classic at the end of the backward, unlocked right after a layer's forward."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dni_async import DNI
from tests.support.nets import batch, mlp, same, train, values


def history(**settings: Any) -> list[str]:
    """What happens in a training step: forwards of layers, moves of their weights, SG learning."""
    net = mlp()
    events: list[str] = []
    last: dict[int, torch.Tensor] = {}

    def look(what: str) -> None:
        for i in (0, 2, 4):
            if not torch.equal(last[i], net[i].weight):
                events.append(f"step {i}")
                last[i] = net[i].weight.detach().clone()
        events.append(what)

    wrapped = DNI(net, dni_params={"replay": 0}, **settings)
    train(wrapped, 3)  # each step, learning gets one layer further down
    last |= {i: net[i].weight.detach().clone() for i in (0, 2, 4)}
    for name, interface in wrapped.interfaces.items():
        learn = interface.synthesizer.learn

        def learned(pending: Any, target: Any, name: str = name, learn: Any = learn) -> None:
            look(f"learn {name}")
            learn(pending, target)

        interface.synthesizer.learn = learned
    for i in (0, 2, 4):
        net[i].register_forward_pre_hook(lambda module, args, i=i: look(f"forward {i}"))
    x, y = batch()
    loss = F.cross_entropy(wrapped(x), y)
    look("loss")
    loss.backward()
    look("end")
    return events


def test_classic_everything_moves_at_the_end_of_the_backward() -> None:
    assert history() == [
        *("forward 0", "forward 2", "forward 4", "loss"),
        *("learn 2", "learn 0", "step 0", "step 2", "step 4", "end"),
    ]


def test_unlocked_a_layer_has_moved_before_the_layers_above_run() -> None:
    assert history(unlock="update") == [
        *("forward 0", "step 0", "forward 2", "step 2", "forward 4", "loss"),
        *("learn 0", "learn 2", "step 4", "end"),
    ]


def test_unlocked_no_gradient_leaves_a_segment() -> None:
    net = mlp()
    wrapped = DNI(net, unlock="update")
    with torch.no_grad():
        net[4].weight.zero_()
    x, _ = batch()
    output = wrapped(x)
    assert all(p.grad is None for p in net.parameters())
    (gradient,) = torch.autograd.grad(output.sum(), [net[4].weight])
    assert gradient.abs().sum() > 0 and net[2].weight.grad is None


def test_a_backward_that_fails_leaves_the_next_one_whole() -> None:
    def fail(gradient: torch.Tensor) -> None:
        raise RuntimeError("on purpose")

    net = DNI(mlp())
    x, y = batch()
    loss = F.cross_entropy(net(x.requires_grad_()), y)
    x.register_hook(fail)
    with pytest.raises(RuntimeError, match="on purpose"):
        loss.backward()
    before = values(net.network)
    train(net, 1)
    assert not same(values(net.network), before)


def test_gradients_of_an_input_alone_move_nothing() -> None:
    net = DNI(mlp())
    train(net, 1)
    before = values(net.network)
    x, _ = batch()
    x.requires_grad_()
    torch.autograd.grad(net(x).sum(), x)
    assert same(values(net.network), before)


def test_without_weight_updates_gradients_stay_and_add_up() -> None:
    net = DNI(mlp(), update_weights=False, λ=1)
    x, y = batch()
    F.cross_entropy(net(x), y).backward()
    once = net.network[0].weight.grad.clone()
    F.cross_entropy(net(x), y).backward()
    torch.testing.assert_close(net.network[0].weight.grad, 2 * once)
    assert same(values(net.network), values(mlp()))


def test_targets_of_a_pass_without_a_loss_do_not_pile_up() -> None:
    net = DNI(nn.Sequential(mlp(), nn.Linear(3, 3)), unlock="update")
    for _ in range(5):
        net(batch()[0])
    gc.collect()
    assert len(net._shared._arrived) == 2  # those of the last pass: layer 0.0 and 0.2 heard from above
