from __future__ import annotations

import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from dni_async.errors import UserError
from dni_async.networks import ConvSG


def filled(classes: int = 3, kernel_size: int = 3) -> ConvSG:
    torch.manual_seed(0)
    network = ConvSG(2, 4, 2, classes, layers=1, kernel_size=kernel_size).double()
    nn.init.normal_(network.output.weight)
    return network


@pytest.mark.parametrize(("height", "width"), [(1, 3), (5, 4), (7, 7), (8, 5)])
@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_untrained_it_predicts_exactly_zero_in_the_shape_of_h(
    height: int, width: int, kernel_size: int
) -> None:
    network = ConvSG(3, 4, 3, 6, kernel_size=kernel_size)
    gradient = network.synthesize(torch.randn(5, 3, height, width), F.one_hot(torch.arange(5), 6).float())
    assert gradient.shape == (5, 3, height, width)
    assert gradient.eq(0).all()


@pytest.mark.parametrize("layers", [0, 1, 3])
def test_the_network_has_the_requested_number_of_hidden_layers(layers: int) -> None:
    network = ConvSG(3, 4, 3, 0, layers)
    assert [type(m).__name__ for m in network.body] == ["SameConv2d", "BatchNorm", "ReLU"] * layers


@settings(max_examples=30, deadline=None, database=None)
@given(
    st.tuples(st.integers(1, 7), st.integers(1, 7)),
    st.tuples(st.integers(1, 4), st.integers(1, 4)),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.tuples(st.integers(0, 5), st.integers(0, 5)),
)
def test_one_convolution_is_torchs_same_convolution_whatever_the_padding(
    size: tuple[int, int], kernel: tuple[int, int], dilation: tuple[int, int], padding: tuple[int, int]
) -> None:
    """Too little is added around h, too much is cut off: either way no pixel is displaced."""
    networks = [
        ConvSG(2, 3, 2, 0, 0, kernel, padding=way, dilation=dilation).double() for way in ("SAME", padding)
    ]
    for network in networks:
        nn.init.ones_(network.output.bias)
        torch.manual_seed(0)
        nn.init.normal_(network.output.weight)
    h = torch.randn(2, 2, *size).double()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns about even kernels
        output = networks[0].output
        wanted = F.conv2d(h, output.weight, output.bias, padding="same", dilation=dilation).detach()
    for network in networks:
        torch.testing.assert_close(network.synthesize(h, None), wanted)


def test_labels_are_planes() -> None:
    """The labels reach every pixel alike: with 1x1 kernels a constant h gives a constant gradient."""
    network = filled(kernel_size=1)
    h = torch.randn(4, 2, 1, 1).double().expand(-1, -1, 3, 5)
    a, b = (F.one_hot(torch.tensor(k), 3).double() for k in ([0, 1, 2, 0], [1, 1, 2, 0]))
    gradient = network.synthesize(h, a)
    torch.testing.assert_close(gradient, gradient[:, :, :1, :1].expand(-1, -1, 3, 5))
    assert (gradient - network.synthesize(h, b)).abs().max() > 1e-3


def test_the_network_normalises_by_the_batch_in_train_and_in_eval_mode() -> None:
    network, h, labels = filled(), torch.randn(4, 2, 5, 5).double(), torch.randn(4, 3).double()
    trained = network.train().synthesize(h, labels)
    assert torch.equal(network.eval().synthesize(h, labels), trained)
    assert list(network.buffers()) == []


def test_an_unconditional_network_ignores_labels() -> None:
    network, h = filled(classes=0), torch.randn(4, 2, 5, 5).double()
    assert torch.equal(network.synthesize(h, torch.randn(4, 3).double()), network.synthesize(h, None))


def test_a_conditional_network_insists_on_labels() -> None:
    with pytest.raises(UserError, match="conditional"):
        filled().synthesize(torch.zeros(2, 2, 4, 4).double(), None)


def test_an_activation_that_is_no_image_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"ConvSG predicts for \(B, C, H, W\), not for \(2, 2\); use a linear"
    ):
        filled().synthesize(torch.zeros(2, 2).double(), torch.zeros(2, 3).double())


def test_regress_lowers_the_error() -> None:
    network, h, labels = filled(), torch.randn(8, 2, 5, 5).double(), torch.randn(8, 3).double()
    target = h.tanh()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    before = F.mse_loss(network.synthesize(h, labels), target)
    for _ in range(50):
        network.regress(h, labels, target)
        optimizer.step()
        optimizer.zero_grad()
    assert F.mse_loss(network.synthesize(h, labels), target) < before / 4
