"""The old networks one by one; what all of them have in common is in test_every_network.py."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from dni_async.errors import UserError
from dni_async.networks import Conv2dDNI, LinearBatchNormDNI, LinearDNI, LinearSigmoidDNI
from tests.support.sg_networks import fill, synthesizer, train


def kinds(network: nn.Module) -> list[str]:
    names = [type(m).__name__ for m in network.modules() if not any(True for _ in m.children())]
    return [name for name in names if name != "Sequential"]


@pytest.mark.parametrize("layers", [0, 1, 2, 3])
def test_the_linear_networks_have_so_many_hidden_layers(layers: int) -> None:
    sizes: dict[str, Any] = {"input_size": 4, "hidden_size": 2, "output_size": 4, "num_layers": layers}
    assert kinds(LinearDNI(**sizes)) == ["Linear", "ReLU"] * layers + ["Linear"]
    assert kinds(LinearSigmoidDNI(**sizes)) == ["Linear", "ReLU"] * layers + ["Linear"]
    assert kinds(LinearBatchNormDNI(**sizes)) == ["Linear", "FeatureBatchNorm", "ReLU"] * layers + ["Linear"]


def test_two_hidden_layers_are_the_default_and_256_are_the_papers_1024() -> None:
    widths = [m.weight.shape for m in LinearDNI(256, 256, 256).modules() if isinstance(m, nn.Linear)]
    assert widths == [(1024, 256), (1024, 1024), (256, 1024)]


@pytest.mark.parametrize("network", [LinearDNI, LinearBatchNormDNI, LinearSigmoidDNI])
def test_without_bias_zero_gives_zero(network: type[LinearDNI]) -> None:
    without = network(4, 2, 4, bias=False)
    fill(without)
    assert not [name for name, _ in without.named_parameters() if name.endswith("output.bias")]
    if network is not LinearBatchNormDNI:  # whose norm has a bias
        assert without(torch.zeros(5, 4))[0].eq(0).all()


def test_a_linear_network_without_hidden_layers_recovers_the_gradient_of_a_quadratic_loss() -> None:
    """L(h) = |A (h - 1)|^2 / 2 per sample: the gradient A'A (h - 1) is found to 1e-4."""
    torch.manual_seed(0)
    root = torch.randn(4, 4) / 2
    network = LinearDNI(4, 1, 4, num_layers=0)
    sg = synthesizer(network)
    sg.optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    errors = train(sg, 200, lambda: torch.randn(64, 4), lambda h, y: (h - 1) @ (root.T @ root))
    assert errors[0] == pytest.approx(1.0)
    assert max(errors[-5:]) < 1e-4


def test_the_sigmoid_network_predicts_gradients_of_either_sign_and_any_size() -> None:
    """Those of a log loss, at an h three times as large as its logits: 3 (sigmoid(3 h) - y)."""
    torch.manual_seed(0)
    sg = synthesizer(LinearSigmoidDNI(4, 4, 4), lr=2e-2)
    errors = train(sg, 300, lambda: torch.randn(64, 4), lambda h, y: 3 * (3 * h).sigmoid() - 1.5)
    assert max(errors[-5:]) < 0.15


@pytest.mark.parametrize("padding", [0, 1, (2, 0), "SAME", "same", 7])
def test_the_convolutions_have_so_many_filters_and_layers(padding: Any) -> None:
    network = Conv2dDNI(3, 99, 5, convolutions=7, num_layers=2, padding=padding)
    filters = [m.weight.shape for m in network.modules() if isinstance(m, nn.Conv2d)]
    assert filters == [(7, 3, 2, 2), (7, 7, 2, 2), (5, 7, 2, 2)]


def test_the_bias_of_the_convolutions_may_be_left_out() -> None:
    assert Conv2dDNI(3, 9, 3).output.bias is not None
    assert Conv2dDNI(3, 9, 3, bias=False).output.bias is None


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"stride": 2}, "stride is 2; a gradient is as large as its activation, use stride=1"),
        ({"kernel_size": 0}, "kernel_size is 0; give a whole number of at least 1, or two of them"),
        ({"kernel_size": 2.0}, "kernel_size is 2.0; give a whole number of at least 1, or two of them"),
        ({"kernel_size": (3, 0)}, "kernel_size is (3, 0); give a whole number of at least 1, or two of them"),
        (
            {"kernel_size": (3, 3, 3)},
            "kernel_size is (3, 3, 3); give a whole number of at least 1, or two of them",
        ),
        ({"dilation": 0}, "dilation is 0; give a whole number of at least 1, or two of them"),
        ({"padding": -1}, "padding is -1; give a whole number of at least 0, or two of them, or 'SAME'"),
        (
            {"padding": "VALID"},
            "padding is 'VALID'; give a whole number of at least 0, or two of them, or 'SAME'",
        ),
        ({"convolutions": 0}, "convolutions is 0; it must be at least 1"),
        ({"num_layers": -1}, "num_layers is -1; it must be at least 0"),
        ({"label_size": 1.5}, "label_size is 1.5; it must be a whole number of at least 0"),
    ],
)
def test_impossible_convolutions_are_the_users_to_mend(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        Conv2dDNI(3, 9, 3, **asked)
    assert str(error.value) == message


@pytest.mark.parametrize("name", ["input_size", "hidden_size", "output_size", "num_layers"])
def test_impossible_sizes_are_the_users_to_mend(name: str) -> None:
    sizes = {"input_size": 4, "hidden_size": 2, "output_size": 4} | {name: -1}
    with pytest.raises(UserError, match="is -1; it must be at least"):
        LinearDNI(**sizes)
