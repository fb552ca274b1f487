from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dni_async.networks import ConvSG, DNINetwork, FeatureHeadSG, HeadSG, LinearSG, MlpSG
from dni_async.networks.base import along, leave_gradient, zero_output


class Square(DNINetwork):
    """The smallest network that can learn: g = w * h^2."""

    def __init__(self) -> None:
        super().__init__(3, 0, 3)
        self.w = nn.Parameter(torch.tensor(0.5))

    def forward(
        self, input: Tensor, hidden: Tensor | None = None, labels: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        return self.w * input.square(), None


def test_the_sizes_are_remembered() -> None:
    network = DNINetwork(3, 4, 5)
    assert (network.input_size, network.hidden_size, network.output_size) == (3, 4, 5)


def test_a_network_must_say_how_it_predicts() -> None:
    with pytest.raises(NotImplementedError):
        DNINetwork(3, 4, 5).synthesize(torch.zeros(2, 3), None)


def test_synthesize_predicts_and_records_nothing() -> None:
    network, h = Square(), torch.randn(4, 3, requires_grad=True)
    gradient = network.synthesize(h, None)
    assert torch.equal(gradient, 0.5 * h.detach().square())
    assert not gradient.requires_grad
    assert network.w.grad is None
    assert h.grad is None


class Migrant(DNINetwork):
    """Written for pytorch-dni: no labels, a hidden state, and names of its own for its parts."""

    def __init__(self) -> None:
        super().__init__(3, 5, 3)
        self.hidden = nn.GRUCell(3, 5)
        self.batch_size = 7
        self.final = nn.Linear(5, 3)

    def forward(self, input: Tensor, hidden: Tensor | None) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        hidden = self.hidden(input, hidden)
        return self.final(hidden), hidden


def test_a_network_written_for_pytorch_dni_carries_its_hidden_state() -> None:
    network, h = Migrant(), torch.randn(4, 3)
    state = network.hidden(h)
    first, second = network.synthesize(h, None), network.synthesize(h, None)
    assert torch.equal(first, network.final(state))
    assert torch.equal(second, network.final(network.hidden(h, state)))
    network.reset()
    assert torch.equal(network.synthesize(h, None), first)
    assert network.synthesize(h[:2], None).shape == (2, 3)
    assert set(network._modules) == {"hidden", "final"}


def test_a_given_hidden_state_is_used_within_its_block_only() -> None:
    network, h = Migrant(), torch.randn(4, 3)
    first, second = network.synthesize(h, None), network.synthesize(h, None)
    with network.at(None):
        torch.testing.assert_close(network.regress(h, None, h), first)
    with pytest.raises(ZeroDivisionError), network.at(None):
        raise ZeroDivisionError
    third = network.synthesize(h, None)
    assert not torch.equal(third, second)
    network.reset()
    assert torch.equal(torch.stack([network.synthesize(h, None) for _ in range(3)])[2], third)


def test_a_network_learns_only_from_targets_unless_it_says_otherwise() -> None:
    assert not Square().learns_when_predicting


def test_regress_leaves_the_gradient_of_the_mean_squared_error() -> None:
    network, h, target = Square(), torch.randn(4, 3), torch.randn(4, 3)
    prediction = network.regress(h, None, target)
    assert torch.equal(prediction, 0.5 * h.square())
    assert not prediction.requires_grad
    assert network.w.grad is not None
    by_hand = (2 * (0.5 * h.square() - target) * h.square()).mean()
    torch.testing.assert_close(network.w.grad, by_hand)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_a_zeroed_output_layer_gives_exactly_zero(kind: str, bias: bool) -> None:
    layer = nn.Linear(3, 2, bias=bias) if kind == "linear" else nn.Conv2d(3, 2, 1, bias=bias)
    x = torch.randn(4, 3) if kind == "linear" else torch.randn(4, 3, 5, 5)
    assert layer(x).abs().max() > 0
    zero_output(layer)
    assert layer(x).eq(0).all()


def test_labels_are_repeated_along_time() -> None:
    labels = F.one_hot(torch.tensor([2, 0]), 3).float()
    repeated = along(labels, torch.zeros(2, 4, 7))
    assert repeated.shape == (2, 4, 3)
    assert all(torch.equal(repeated[:, t], labels) for t in range(4))


def test_labels_are_repeated_over_all_that_lies_between() -> None:
    labels = torch.randn(2, 3)
    repeated = along(labels, torch.zeros(2, 4, 5, 7))
    assert repeated.shape == (2, 4, 5, 3)
    assert torch.equal(repeated[:, 3, 1], labels)
    over_time = torch.randn(2, 4, 3)
    assert torch.equal(along(over_time, torch.zeros(2, 4, 5, 7))[:, :, 4], over_time)


def test_labels_that_have_time_already_stay() -> None:
    labels = torch.randn(2, 4, 3)
    assert along(labels, torch.zeros(2, 4, 7)) is labels
    flat = torch.randn(2, 3)
    assert along(flat, torch.zeros(2, 7)) is flat


NETWORKS = {
    "linear": (LinearSG(6, 6, 3), (6,)),
    "low rank": (LinearSG(6, 6, 3, rank=2), (6,)),
    "mlp": (MlpSG(6, 8, 6, 3), (6,)),
    "conv": (ConvSG(4, 6, 4, 3), (4, 5, 5)),
    "head": (HeadSG(4, 3, 5), (4, 5, 5)),
    "head with stride": (HeadSG(4, 3, 9), (4, 9, 9)),
    "feature head": (FeatureHeadSG(6, 3, 5), (6,)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_gradient_has_the_memory_layout_of_its_parameter(name: str) -> None:
    """The fused optimizers step the wrong elements otherwise."""
    network, shape = NETWORKS[name]
    h, labels = torch.randn(5, *shape), torch.randn(5, 3).softmax(1)
    for learn in (lambda: network.synthesize(h, labels), lambda: network.regress(h, labels, h)):
        learn()
        layouts = {
            k: (p.grad.stride(), p.stride()) for k, p in network.named_parameters() if p.grad is not None
        }
        assert {k: pair for k, pair in layouts.items() if pair[0] != pair[1]} == {}
    assert len(layouts) == len(list(network.parameters()))


def test_a_gradient_of_another_layout_is_rearranged() -> None:
    parameter, gradient = nn.Parameter(torch.zeros(2, 3)), torch.arange(6.0).view(3, 2).T
    leave_gradient(parameter, gradient)
    assert parameter.grad is not None
    assert parameter.grad.stride() == parameter.stride() != gradient.stride()
    assert torch.equal(parameter.grad, gradient)
    leave_gradient(parameter, None)
    assert parameter.grad is None
