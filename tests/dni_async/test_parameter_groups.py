"""Settings of the optimizer for some parameters, chosen by place or by type."""

from __future__ import annotations

import pytest
from torch import nn

from dni_async.errors import UserError
from dni_async.parameter_groups import check_patterns, numbered, parameter_groups, parameter_names
from dni_async.partition.from_module import from_module


def layers() -> list[nn.Module]:
    return [
        nn.Embedding(4, 3),
        nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3)),
        nn.Linear(3, 2),
    ]


def test_a_parameter_has_a_name_by_place_and_one_by_type() -> None:
    assert [names for _, names in parameter_names(numbered(layers(), 4))] == [
        ["4.weight", "Embedding.weight"],
        ["5.0.weight", "Linear.weight"],
        ["5.0.bias", "Linear.bias"],
        ["5.1.weight", "LayerNorm.weight"],
        ["5.1.bias", "LayerNorm.bias"],
        ["6.weight", "Linear.weight"],
        ["6.bias", "Linear.bias"],
    ]


def test_a_layer_of_a_model_that_was_split_has_the_names_of_the_model_too() -> None:
    model = nn.Sequential()
    model.add_module("embed", nn.Linear(2, 2, bias=False))
    model.add_module("head", nn.Linear(2, 2, bias=False))
    assert [names for _, names in parameter_names(numbered(from_module(model, ["head"])))] == [
        ["0.embed.weight", "Linear.weight", "embed.weight"],
        ["1.head.weight", "Linear.weight", "head.weight"],
    ]


def test_the_order_is_that_of_named_parameters() -> None:
    model = nn.Sequential(*layers())
    assert [names[0] for _, names in parameter_names([("", model)])] == [
        n for n, _ in model.named_parameters()
    ]


def test_frozen_parameters_have_no_name_and_shared_ones_a_single_one() -> None:
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    second.weight = first.weight
    first.bias.requires_grad_(False)
    assert [names[0] for _, names in parameter_names(numbered([first, second]))] == ["0.weight", "1.bias"]


def test_the_first_pattern_that_fits_holds() -> None:
    network = layers()
    settings = {"6.bias": {"lr": 0.5}, "*.bias": {"weight_decay": 0.0}, "*Norm.*": {"weight_decay": 0.1}}
    groups = parameter_groups(numbered(network, 4), settings)
    (_, body, last) = network
    assert [group | {"params": [id(p) for p in group["params"]]} for group in groups] == [
        {"params": [id(last.bias)], "lr": 0.5},
        {"params": [id(body[0].bias), id(body[1].bias)], "weight_decay": 0.0},
        {"params": [id(body[1].weight)], "weight_decay": 0.1},
        {"params": [id(network[0].weight), id(body[0].weight), id(last.weight)]},
    ]


def test_layers_without_parameters_make_no_group() -> None:
    assert parameter_groups(numbered([nn.ReLU()]), {"*": {"lr": 0.1}}) == []


@pytest.mark.parametrize("settings", [{"7.*": {}}, {"*": {}, "*.bias": {}}])
def test_a_pattern_that_no_parameter_belongs_to_is_refused(settings: dict) -> None:
    with pytest.raises(UserError) as error:
        check_patterns(numbered(layers()), settings)
    pattern = list(settings)[-1]
    assert str(error.value) == (
        f"param-groups: no parameter is left for {pattern}; there are 0.weight (Embedding.weight), "
        "1.0.weight (Linear.weight), 1.0.bias (Linear.bias), 1.1.weight (LayerNorm.weight) and 3 more"
    )
