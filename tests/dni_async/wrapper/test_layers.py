"""Which modules are wrapped."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from dni_async import DNI
from dni_async.wrapper.layers import choose, is_leaf, walk


def names(network: nn.Module, recursive: bool = True, skip: bool = True) -> list[str]:
    return list(choose(dict(walk(network, stop=DNI)), recursive, skip, None))


def test_leaves_with_parameters_are_chosen_in_order_without_the_last() -> None:
    block = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.ReLU())
    net = nn.Sequential(block, nn.Dropout(), nn.Sequential(nn.Linear(2, 2)))
    assert names(net) == ["0.0", "0.1"]
    assert names(net, skip=False) == ["0.0", "0.1", "2.0"]
    assert names(net, recursive=False) == [""]


def test_a_layer_alone_is_one_layer() -> None:
    assert names(nn.Linear(2, 2)) == [""]


def test_a_module_that_is_there_twice_is_chosen_once() -> None:
    layer = nn.Linear(2, 2)
    assert names(nn.Sequential(layer, layer, nn.Linear(2, 2))) == ["0"]


def test_a_compiled_leaf_is_a_leaf_and_a_compiled_network_is_not() -> None:
    compiled = torch.compile(nn.Linear(2, 2), backend="eager")
    assert is_leaf(compiled) and not is_leaf(torch.compile(nn.Sequential(nn.Linear(2, 2)), backend="eager"))
    assert names(nn.Sequential(compiled, nn.Linear(2, 2)), skip=False) == ["0", "1"]


def test_a_layer_with_parametrizations_is_a_leaf() -> None:
    assert names(nn.Sequential(weight_norm(nn.Linear(2, 2)), nn.ReLU(), weight_norm(nn.Linear(2, 2)))) == [
        "0"
    ]


def test_wrappers_inside_are_not_walked_into() -> None:
    net = nn.Sequential(DNI(nn.Linear(2, 2)), nn.Linear(2, 2))
    assert [name for name, _ in walk(net, stop=DNI)] == ["", "1"]
