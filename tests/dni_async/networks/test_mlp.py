from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dni_async.errors import UserError
from dni_async.networks import MlpSG


def filled(layers: int = 1, classes: int = 3) -> MlpSG:
    torch.manual_seed(0)
    network = MlpSG(4, 6, 4, classes, layers).double()
    nn.init.normal_(network.output.weight)
    return network


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("shape", [(5, 8), (5, 2, 8)])
def test_an_untrained_network_predicts_exactly_zero(shape: tuple[int, ...], layers: int) -> None:
    labels = F.one_hot(torch.arange(5), 6).float()
    gradient = MlpSG(8, 16, 8, 6, layers).synthesize(torch.randn(shape), labels)
    assert gradient.shape == shape
    assert gradient.eq(0).all()


@pytest.mark.parametrize("layers", [0, 1, 3])
def test_the_network_has_the_requested_number_of_hidden_layers(layers: int) -> None:
    network = MlpSG(8, 16, 8, 0, layers)
    assert [type(m).__name__ for m in network.body] == ["Linear", "LayerNorm", "ReLU"] * layers


def test_the_paper_network_has_two_hidden_layers_of_1024() -> None:
    network = MlpSG(256, 1024, 256, 10, layers=2)
    widths = [m.weight.shape for m in network.modules() if isinstance(m, nn.Linear)]
    assert widths == [(1024, 266), (1024, 1024), (256, 1024)]


def test_a_sample_predicts_the_same_whatever_else_is_in_the_batch() -> None:
    network, h, labels = filled(2), torch.randn(7, 4).double(), torch.randn(7, 3).double()
    alone = network.synthesize(h[2:3], labels[2:3])
    torch.testing.assert_close(network.synthesize(h, labels)[2:3], alone)


def test_a_time_step_predicts_as_a_batch_of_its_own() -> None:
    network, h, labels = filled(), torch.randn(5, 2, 4).double(), torch.randn(5, 3).double()
    over_time = network.synthesize(h, labels)
    for t in range(2):
        torch.testing.assert_close(over_time[:, t], network.synthesize(h[:, t], labels))


def test_a_conditional_prediction_depends_on_the_labels() -> None:
    network, h = filled(), torch.randn(2, 4).double()
    a, b = (F.one_hot(torch.full((2,), k), 3).double() for k in (0, 1))
    assert (network.synthesize(h, a) - network.synthesize(h, b)).abs().min() > 1e-6


def test_a_conditional_network_insists_on_labels() -> None:
    with pytest.raises(UserError, match="conditional"):
        filled().synthesize(torch.zeros(2, 4).double(), None)


def test_regress_lowers_the_error() -> None:
    network, h, labels = filled(), torch.randn(16, 4).double(), torch.randn(16, 3).double()
    target = h.tanh()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    before = F.mse_loss(network.synthesize(h, labels), target)
    for _ in range(50):
        network.regress(h, labels, target)
        optimizer.step()
        optimizer.zero_grad()
    assert F.mse_loss(network.synthesize(h, labels), target) < before / 4
