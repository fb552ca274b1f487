from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dni_async.errors import UserError
from dni_async.networks import DNINetwork, FeatureHeadSG, HeadSG, TokenHeadSG
from dni_async.networks.factory import build_network, resolve
from dni_async.networks.flattened import Flattened
from dni_async.networks.registry import NETWORKS, automatic_kind, find_network
from dni_async.networks.settings import SGConfig

HERE = "tests.dni_async.networks.test_registry"


class Scaled(DNINetwork):
    """Its output is h times a weight per feature: a network of a user's."""

    default_lr = 0.5
    replays = False

    def __init__(self, input_size: int, hidden_size: int, output_size: int, label_size: int = 0) -> None:
        super().__init__(input_size, hidden_size, output_size)
        self.label_size = label_size
        self.weight = nn.Parameter(torch.zeros(output_size))

    def forward(
        self, input: Tensor, hidden: Tensor | None = None, labels: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        return input * self.weight, None


class OfImages(Scaled):
    feature_dim = 1


class OwnFeatureHead(FeatureHeadSG):
    pass


class OwnImageHead(HeadSG):
    pass


class WithoutLabels(Scaled):
    def forward(  # type: ignore[override]
        self, input: Tensor, hidden: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        return input * self.weight, None


class WithoutSizes(Scaled):
    def __init__(self, width: int) -> None:
        super().__init__(width, width, width)


def built(kind: str, shape: tuple[int, ...], label_size: int = 0) -> DNINetwork:
    config = resolve(SGConfig(kind=f"{HERE}:{kind}"), shape, 3, label_size > 0, classes=True)
    return build_network(config, shape, label_size)


@pytest.mark.parametrize("kind", NETWORKS)
def test_every_kind_is_a_network(kind: str) -> None:
    assert issubclass(find_network(kind), DNINetwork)


@pytest.mark.parametrize(
    ("shape", "conditional", "classes", "batch_normalised", "kind"),
    [
        ((64,), True, True, False, "head"),
        ((64,), True, True, True, "linear"),
        ((64,), True, False, False, "linear"),
        ((64,), False, True, False, "linear"),
        ((3,), True, True, False, "head"),
        ((2,), True, True, False, "linear"),
        ((1,), True, True, False, "linear"),
        ((7, 2), True, True, False, "linear"),
        ((1, 8, 8), True, True, False, "head"),
        ((7, 64), True, True, False, "head"),
        ((7, 64), False, True, False, "linear"),
        ((3, 8, 8), True, True, False, "head"),
        ((3, 8, 8), True, True, True, "head"),
        ((3, 8, 8), True, False, False, "conv"),
        ((3, 8, 8), False, True, False, "conv"),
    ],
)
def test_the_automatic_kind(
    shape: tuple[int, ...], conditional: bool, classes: bool, batch_normalised: bool, kind: str
) -> None:
    assert automatic_kind(shape, conditional, classes, batch_normalised) == kind


@pytest.mark.parametrize(
    ("shape", "batch_normalised", "values", "kind"),
    [
        ((64,), False, 1, "least-squares"),
        ((128,), False, 128, "least-squares"),
        ((7, 64), False, 2, "least-squares"),
        ((129,), False, 1, "linear"),
        ((64,), False, 129, "linear"),
        ((64,), True, 1, "linear"),
        ((3, 8, 8), False, 1, "conv"),
    ],
)
def test_real_valued_labels_get_least_squares_where_they_are_cheap(
    shape: tuple[int, ...], batch_normalised: bool, values: int, kind: str
) -> None:
    assert automatic_kind(shape, True, False, batch_normalised, values) == kind


@pytest.mark.parametrize(
    ("shape", "variant"), [((4,), FeatureHeadSG), ((5, 4), TokenHeadSG), ((4, 3, 3), HeadSG)]
)
def test_a_head_suits_the_shape_of_the_activation(shape: tuple[int, ...], variant: type[DNINetwork]) -> None:
    config = resolve(SGConfig(kind="head"), shape, 3, True, classes=True)
    network = build_network(config, shape, 10)
    assert type(network) is variant


@pytest.mark.parametrize(("kind", "shape"), [("OwnFeatureHead", (6,)), ("OwnImageHead", (2, 3, 4))])
def test_a_head_of_the_users_is_not_replaced_by_the_built_in_one(kind: str, shape: tuple[int, ...]) -> None:
    assert type(built(kind, shape, label_size=4)).__name__ == kind


def test_a_network_of_the_users_gets_its_sizes_and_its_defaults() -> None:
    config = resolve(SGConfig(kind=f"{HERE}:Scaled"), (6,), 3, True, classes=True)
    assert (config.lr, config.hidden, config.layers, config.replay) == (0.5, 6, 1, 0)
    network = built("Scaled", (7, 6), label_size=4)
    assert isinstance(network, Scaled)
    assert (network.input_size, network.output_size, network.label_size) == (6, 6, 4)


def test_images_are_flattened_for_a_network_of_vectors_only() -> None:
    flat, whole = built("Scaled", (2, 3, 4)), built("OfImages", (2, 3, 4))
    assert isinstance(flat, Flattened) and flat.input_size == 24
    assert isinstance(whole, OfImages) and whole.input_size == 2


@pytest.mark.parametrize(
    ("kind", "label_size", "words"),
    [
        ("OfImages", 0, "needs activations (B, C, H, W), not ('B', 6); use linear"),
        ("WithoutLabels", 4, "has no labels in its forward; use rule dni"),
        ("WithoutSizes", 0, "cannot be built ("),
    ],
)
def test_a_network_that_does_not_fit_is_one_line(kind: str, label_size: int, words: str) -> None:
    with pytest.raises(UserError) as caught:
        built(kind, (6,), label_size)
    assert str(caught.value).startswith(f"SG network {HERE}:{kind} {words}")
    assert "\n" not in str(caught.value)


def test_a_network_without_labels_predicts_under_an_unconditional_rule() -> None:
    assert isinstance(built("WithoutLabels", (6,)), WithoutLabels)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (
            "rnn",
            "unknown SG network (rnn); use one of auto, linear, least-squares, mlp, conv, head",
        ),
        (
            "absent_networks:Mine",
            "SG network module not found (absent_networks): run where",
        ),
        (f"{HERE}:Absent", f"SG network class not found (Absent): define it in {HERE}, or mend its name"),
        (f"{HERE}:Path", f"no SG network ({HERE}:Path): derive the class from dni_async.networks.base.DNI"),
    ],
)
def test_a_wrong_kind_is_refused_in_one_line(
    kind: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(UserError) as caught:
        SGConfig(kind=kind)
    assert str(caught.value).startswith(words)
