from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from dni_async.errors import UserError
from dni_async.networks import DNINetwork, LinearSG
from dni_async.networks.linear import LinearSG as Linear

shapes = st.one_of(
    st.tuples(st.integers(1, 6), st.integers(1, 7)),
    st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 7)),
)


def filled(size: int, classes: int, rank: int, seed: int = 0) -> LinearSG:
    """A network in float64 whose weights are all random, the output layer's too."""
    network = LinearSG(size, size, classes, rank).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return network


@settings(max_examples=40, deadline=None, database=None)
@given(shapes, st.integers(0, 4), st.integers(0, 3), st.booleans(), st.integers(0, 2**30))
def test_the_gradients_written_out_are_autograds(
    shape: tuple[int, ...], classes: int, rank: int, labels_have_time: bool, seed: int
) -> None:
    network = filled(shape[-1], classes, rank, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    h = torch.randn(shape, generator=generator, dtype=torch.float64)
    target = torch.randn(shape, generator=generator, dtype=torch.float64)
    rows = shape[:-1] if labels_have_time else shape[:1]
    labels = torch.randn(*rows, classes, generator=generator, dtype=torch.float64) if classes else None

    prediction = DNINetwork.regress(network, h, labels, target)
    wanted = {name: p.grad for name, p in network.named_parameters()}
    network.zero_grad()
    by_hand = network.regress(h, labels, target)

    torch.testing.assert_close(by_hand, prediction)
    assert len(wanted) == 2 + (rank > 0)
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(parameter.grad, wanted[name], rtol=1e-10, atol=1e-12)


def test_a_second_regression_replaces_the_gradients() -> None:
    network, h, target = filled(4, 0, 2), torch.randn(3, 4).double(), torch.randn(3, 4).double()
    network.regress(h, None, target)
    first = [p.grad.clone() for p in network.parameters() if p.grad is not None]
    network.regress(h, None, target)
    second = [p.grad for p in network.parameters()]
    assert len(first) == len(second) == 3
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a, b)


def test_regress_changes_neither_its_input_nor_the_target() -> None:
    network, h, target, labels = filled(4, 3, 2), *(torch.randn(3, n).double() for n in (4, 4, 3))
    before = h.clone(), target.clone(), labels.clone()
    network.regress(h, labels, target)
    assert all(torch.equal(a, b) for a, b in zip(before, (h, target, labels), strict=True))


@pytest.mark.parametrize("rank", [0, 3])
@pytest.mark.parametrize("shape", [(5, 8), (5, 2, 8)])
def test_an_untrained_network_predicts_exactly_zero(shape: tuple[int, ...], rank: int) -> None:
    labels = F.one_hot(torch.arange(5), 6).float()
    gradient = LinearSG(8, 8, 6, rank).synthesize(torch.randn(shape), labels)
    assert gradient.shape == shape
    assert gradient.eq(0).all()


@pytest.mark.parametrize("rank", [0, 3])
def test_the_linear_network_is_affine_in_h_and_linear_in_the_labels(rank: int) -> None:
    network = filled(4, 3, rank)
    h, labels = torch.randn(5, 4).double(), torch.randn(5, 3).double()
    weight, of_labels = network.output.weight.split([rank or 4, 3], dim=1)
    if network.squeeze is not None:
        weight = weight @ network.squeeze.weight
    by_hand = h @ weight.T + labels @ of_labels.T + network.output.bias
    torch.testing.assert_close(network.synthesize(h, labels), by_hand.detach())


def test_rank_bounds_the_weights() -> None:
    def size(rank: int) -> int:
        return sum(p.numel() for p in LinearSG(100, 100, 10, rank).parameters())

    assert size(0) == 100 * 100 + 100 + 10 * 100
    assert size(8) == 2 * 8 * 100 + 100 + 10 * 100


def test_an_unconditional_network_ignores_labels() -> None:
    network, h = filled(4, 0, 0), torch.randn(5, 4).double()
    assert network.label_size == 0
    assert torch.equal(network.synthesize(h, torch.randn(5, 3).double()), network.synthesize(h, None))


def test_a_conditional_network_insists_on_labels() -> None:
    with pytest.raises(UserError, match="conditional"):
        Linear(4, 4, 3).synthesize(torch.zeros(2, 4), None)
    with pytest.raises(UserError, match="conditional"):
        Linear(4, 4, 3).regress(torch.zeros(2, 4), None, torch.zeros(2, 4))


def learn(network: LinearSG, matrix: torch.Tensor, centre: torch.Tensor, steps: int, lr: float) -> float:
    """Relative error on fresh h after regressing on A (h - c), the gradient of (h - c)' A (h - c) / 2."""
    generator = torch.Generator().manual_seed(2)
    optimizer = torch.optim.SGD(network.parameters(), lr=lr)
    for _ in range(steps):
        h = torch.randn(64, len(matrix), generator=generator)
        network.regress(h, None, (h - centre) @ matrix.T)
        optimizer.step()
    h = torch.randn(64, len(matrix), generator=generator)
    wanted = (h - centre) @ matrix.T
    return float((network.synthesize(h, None) - wanted).norm() / wanted.norm())


def symmetric(size: int, rank: int) -> torch.Tensor:
    basis = torch.randn(size, rank, generator=torch.Generator().manual_seed(1))
    return basis @ basis.T / size


def test_full_rank_recovers_the_gradient_of_a_quadratic_loss() -> None:
    torch.manual_seed(0)
    error = learn(LinearSG(6, 6), symmetric(6, 6), torch.ones(6), steps=150, lr=1.2)
    assert error < 1e-4


def test_rank_r_recovers_a_map_of_rank_r_and_rank_r_minus_1_does_not() -> None:
    torch.manual_seed(0)
    matrix, centre = symmetric(6, 2), torch.zeros(6)
    assert learn(LinearSG(6, 6, rank=2), matrix, centre, steps=1500, lr=0.5) < 1e-4
    assert learn(LinearSG(6, 6, rank=1), matrix, centre, steps=1500, lr=0.5) > 0.1
