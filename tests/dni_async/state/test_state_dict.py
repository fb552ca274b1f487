"""A state is a copy when asked for, and an optimizer goes on from it to the bit."""

from __future__ import annotations

import random

import numpy
import pytest
import torch
from torch import nn
from torch.optim import Optimizer

from dni_async.optim import optimizer_factory
from dni_async.state.state_dict import (
    State,
    copied,
    load_optimizer_state,
    load_random_state,
    optimizer_state,
    random_state,
    renumbered,
)
from tests.support.optimizers import OPTIMIZERS


def test_a_copy_does_not_change_with_what_it_was_copied_from() -> None:
    weight = nn.Parameter(torch.ones(3))
    live = {"layers": {"0.weight": weight}, "rows": [torch.zeros(2), (1, 2.5)], "count": 7, "none": None}
    state = copied(live)
    with torch.no_grad():
        weight += 1
        live["rows"][0] += 1
    assert torch.equal(state["layers"]["0.weight"], torch.ones(3))
    assert not state["layers"]["0.weight"].requires_grad
    assert torch.equal(state["rows"][0], torch.zeros(2))
    assert (state["rows"][1], state["count"], state["none"]) == ([1, 2.5], 7, None)


def test_weights_that_share_memory_are_copied_apart() -> None:
    weight = torch.ones(4)
    state = copied({"a": weight, "b": weight[:2]})
    state["a"].zero_()
    assert torch.equal(state["b"], torch.ones(2))


def test_names_of_layers_are_those_of_the_uncut_network_and_back() -> None:
    names = {"0.weight": 1, "1.0.bias": 2, "12.weight": 3}
    moved = renumbered(names, 4)
    assert moved == {"4.weight": 1, "5.0.bias": 2, "16.weight": 3}
    assert renumbered(moved, -4) == names


def stepped(optimizer: Optimizer, layer: nn.Module, steps: range) -> None:
    for step in steps:
        for i, parameter in enumerate(layer.parameters()):
            generator = torch.Generator().manual_seed(2 * step + i)
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()


def a_layer(channels_last: bool = False) -> nn.Module:
    torch.manual_seed(0)
    return nn.Conv2d(3, 4, 2).to(memory_format=torch.channels_last) if channels_last else nn.Linear(3, 2)


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name != "Muon"])
def test_every_optimizer_goes_on_to_the_bit(name: str) -> None:
    make = optimizer_factory(name, 0.01)
    layer = a_layer()
    optimizer = make(list(layer.parameters()))
    stepped(optimizer, layer, range(3))
    weights, state = copied(layer.state_dict()), copied(optimizer_state(optimizer))
    stepped(optimizer, layer, range(3, 6))

    other = a_layer()
    resumed = make(list(other.parameters()))
    for _ in range(2):  # the state is left as it was
        other.load_state_dict(weights)
        load_optimizer_state(resumed, state)
        stepped(resumed, other, range(3, 6))
        assert all(torch.equal(a, b) for a, b in zip(layer.parameters(), other.parameters(), strict=True))


def test_momentum_has_the_strides_of_its_parameter() -> None:
    """The fused optimizers read both as flat arrays."""
    layer = a_layer(channels_last=True)
    optimizer = optimizer_factory("adam", 0.01)(list(layer.parameters()))
    for parameter in layer.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    dense = [{key: value.contiguous() for key, value in row.items()} for row in optimizer_state(optimizer)]
    load_optimizer_state(optimizer, dense)
    weight = layer.weight
    assert optimizer.state[weight]["exp_avg"].stride() == weight.stride()
    assert optimizer.state[weight]["exp_avg"].stride() != dense[0]["exp_avg"].stride()


def test_a_parameter_without_state_starts_anew() -> None:
    layer = a_layer()
    optimizer = optimizer_factory("adam", 0.01)(list(layer.parameters()))
    stepped(optimizer, layer, range(2))
    states: list[State] = [optimizer_state(optimizer)[0], {}]
    load_optimizer_state(optimizer, states)
    assert [len(row) > 0 for row in optimizer_state(optimizer)] == [True, False]


def test_another_number_of_parameters_is_refused() -> None:
    optimizer = optimizer_factory("adam", 0.01)(list(a_layer().parameters()))
    with pytest.raises(ValueError, match="zip"):
        load_optimizer_state(optimizer, [{}, {}, {}])


def test_random_numbers_go_on() -> None:
    def draw() -> list[float]:
        return [torch.rand(1).item(), numpy.random.normal(), random.gauss(0, 1), random.random()]

    draw()  # leaves the second number of a pair of normal ones
    state = copied(random_state())
    first = draw()
    draw()
    load_random_state(state)
    assert draw() == first


def test_a_state_of_torch_alone_leaves_the_other_generators() -> None:
    before = random_state()
    load_random_state({"cpu": torch.get_rng_state()})
    assert random_state()["python"][1].tolist() == before["python"][1].tolist()
