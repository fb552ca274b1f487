"""The measured default, or a network of the user's class."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from dni_async import networks
from dni_async.networks import ConvSG, DNINetwork, HeadSG, LinearSG, MlpSG
from dni_async.networks.base import along
from dni_async.networks.flattened import Flattened
from dni_async.wrapper.maker import Joined, Maker
from tests.support.nets import OldStyle

DEFAULT: dict[str, Any] = {"network": None, "params": {}, "hidden_size": 10, "optimizer": "adam", "lr": None}


@pytest.mark.parametrize(
    ("settings", "shape", "label_size", "kind", "lr"),
    [
        ({}, (8,), 0, LinearSG, 1e-3),
        ({}, (5, 8), 3, LinearSG, 1e-3),
        ({}, (4, 6, 6), 0, ConvSG, 1e-3),
        ({}, (4, 6, 6), 3, HeadSG, 3e-3),
        ({"params": {"kind": "mlp"}}, (8,), 0, MlpSG, 1e-3),
        ({"params": {"kind": "linear", "lr": 0.5}, "lr": 0.1}, (4, 6, 6), 0, Flattened, 0.5),
        ({"lr": 0.1}, (8,), 0, LinearSG, 0.1),
    ],
)
def test_the_default_is_the_measured_one(
    settings: dict[str, Any], shape: Any, label_size: int, kind: type, lr: float
) -> None:
    maker = Maker(**DEFAULT | settings | {"label_size": label_size})
    made = maker.make(shape, classes=True, like=torch.zeros(1))
    assert type(made.network) is kind and made.optimizer.param_groups[0]["lr"] == lr


def test_from_three_stages_on_the_default_replays() -> None:
    for layers, replay in ((1, 0), (2, 2)):
        assert Maker(**DEFAULT, layers=layers).make((8,), classes=False, like=torch.zeros(1)).replay == replay


class Labelled(DNINetwork):
    def __init__(self, input_size: int, hidden_size: int, output_size: int, label_size: int = 0) -> None:
        super().__init__(input_size, hidden_size, output_size)
        self.output = nn.Linear(input_size + label_size, output_size)

    def forward(self, input, hidden=None, labels=None):
        return self.output(input if labels is None else torch.cat([input, along(labels, input)], -1)), None


class Plain(nn.Module):
    """No DNINetwork at all."""

    def __init__(self, input_size: int, hidden_size: int, output_size: int) -> None:
        super().__init__()
        self.output = nn.Linear(input_size, output_size)

    def forward(self, input, hidden):
        return self.output(input), None


@pytest.mark.parametrize("label_size", [0, 3])
@pytest.mark.parametrize("cls", [OldStyle, Labelled, Plain])
@pytest.mark.parametrize("shape", [(8,), (5, 8)])
def test_a_users_class_learns_with_and_without_labels(cls: type, label_size: int, shape: Any) -> None:
    torch.manual_seed(0)
    made = Maker(**DEFAULT | {"network": cls, "lr": 1e-2, "label_size": label_size}).make(
        shape, classes=True, like=torch.zeros(1)
    )
    assert isinstance(made.network, Joined) == (cls is Plain or (cls is OldStyle and label_size > 0))
    h, labels, target = torch.randn(4, *shape), torch.rand(4, 3), torch.randn(4, *shape)
    errors = []
    for _ in range(50):
        pending, prediction = made.synthesize(0, h, labels if label_size else None)
        errors.append(float((prediction - target).square().mean()))
        made.learn(pending, target)
    assert errors[-1] < 0.8 * errors[0]


@pytest.mark.parametrize("cls", [networks.LinearDNI, networks.LinearBatchNormDNI, networks.LinearSigmoidDNI])
@pytest.mark.parametrize("label_size", [0, 3])
def test_old_names_are_made_by_the_old_arguments(cls: type, label_size: int) -> None:
    maker = Maker(**DEFAULT | {"network": cls, "params": {"num_layers": 1}, "label_size": label_size})
    made = maker.make((5, 8), classes=True, like=torch.zeros(1))
    _, gradient = made.synthesize(0, torch.randn(4, 5, 8), torch.rand(4, 3) if label_size else None)
    assert gradient.shape == (4, 5, 8)


@pytest.mark.parametrize("label_size", [0, 3])
def test_a_convolutional_class_is_sized_by_channels(label_size: int) -> None:
    maker = Maker(**DEFAULT | {"network": networks.Conv2dDNI, "label_size": label_size})
    made = maker.make((4, 6, 5), classes=True, like=torch.zeros(1))
    _, gradient = made.synthesize(0, torch.randn(2, 4, 6, 5), torch.rand(2, 3) if label_size else None)
    assert gradient.shape == (2, 4, 6, 5)


def test_making_leaves_the_users_random_numbers_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    Maker(**DEFAULT | {"network": OldStyle}).make((8,), classes=False, like=torch.zeros(1))
    assert torch.equal(torch.rand(1), expected)
