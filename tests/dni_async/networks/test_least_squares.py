"""The linear SG network in closed form."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from dni_async.networks import LeastSquaresSG, LinearSG
from dni_async.networks.base import NetworkSettings
from dni_async.networks.least_squares import RIDGE, SOLVE_EVERY
from tests.support.sg_networks import LABELS, labels_for, synthesizer

WIDTH = 5


def batches(count: int, rows: int = 8, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    shape = (count, 2, rows, WIDTH)
    return [(h, t) for h, t in torch.randn(shape, generator=generator, dtype=torch.float64)]


def taught(network: LeastSquaresSG, lessons: list[tuple[Tensor, Tensor]]) -> LeastSquaresSG:
    for h, target in lessons:
        network.regress(h, None, target)
    return network


def test_the_weights_are_the_ridge_regression_on_all_targets_weighted_by_age() -> None:
    lessons = batches(SOLVE_EVERY)
    network = taught(LeastSquaresSG(WIDTH, WIDTH, memory=32).double(), lessons)
    age = torch.arange(SOLVE_EVERY - 1, -1, -1).double()
    weight = (0.75**age).repeat_interleave(8).unsqueeze(1)
    f = torch.cat([torch.cat([h, h.tanh(), torch.ones(8, 1)], 1) for h, _ in lessons])
    t = torch.cat([target for _, target in lessons])
    expected = torch.linalg.solve(f.T @ (weight * f) + RIDGE * torch.eye(2 * WIDTH + 1), f.T @ (weight * t))
    torch.testing.assert_close(network.output.weight.T, expected[:-1])
    torch.testing.assert_close(network.output.bias, expected[-1])


def test_between_solutions_predictions_stay_as_they_are() -> None:
    lessons = batches(2 * SOLVE_EVERY)
    network = LeastSquaresSG(WIDTH, WIDTH).double()
    seen = []
    for h, target in lessons:
        network.regress(h, None, target)
        seen.append(network.output.weight.clone())
    changes = [not torch.equal(a, b) for a, b in itertools.pairwise(seen)]
    assert changes == [i % SOLVE_EVERY == SOLVE_EVERY - 1 for i in range(1, len(seen))]


def test_directions_of_very_different_size_are_learned_at_once_where_gradient_descent_is_slow() -> None:
    sizes = torch.tensor([10.0, 1.0, 1.0, 1.0, 0.1])
    errors = {}
    for network in (LeastSquaresSG(WIDTH, WIDTH, memory=1600), LinearSG(WIDTH, WIDTH)):
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
        generator = torch.Generator().manual_seed(0)
        for _ in range(100):
            h = torch.randn(32, WIDTH, generator=generator)
            network.regress(h * sizes, None, h)
            optimizer.step()
        h = torch.randn(64, WIDTH, generator=generator)
        errors[type(network)] = float((network.synthesize(h * sizes, None) - h).norm() / h.norm())
    assert errors[LeastSquaresSG] < 0.1 and errors[LinearSG] > 0.5


def test_least_squares_forget_a_relation_that_no_longer_holds() -> None:
    network = LeastSquaresSG(WIDTH, WIDTH, memory=32).double()
    taught(network, [(h, h) for h, _ in batches(40)])
    taught(network, [(h, -h) for h, _ in batches(40, seed=1)])
    h = batches(1, seed=2)[0][0]
    torch.testing.assert_close(network.synthesize(h, None), -h, rtol=0, atol=0.2)


def test_least_squares_learn_a_gradient_that_saturates() -> None:
    network = LeastSquaresSG(WIDTH, WIDTH, memory=1600).double()
    taught(network, [(5 * h, (5 * h).tanh()) for h, _ in batches(40)])
    h = 5 * batches(1, seed=1)[0][0]
    torch.testing.assert_close(network.synthesize(h, None), h.tanh(), rtol=0, atol=0.2)


def test_labels_and_rows_over_time_are_features_and_samples() -> None:
    network = LeastSquaresSG(WIDTH, WIDTH, LABELS, memory=500).double()
    h = torch.zeros(LABELS, 3, WIDTH).double()
    target = torch.arange(LABELS).double().view(-1, 1, 1).expand_as(h)
    for _ in range(200):
        network.regress(h, labels_for(LABELS), target)
    torch.testing.assert_close(network.synthesize(h, labels_for(LABELS)), target, rtol=0, atol=0.05)


def test_a_system_that_cannot_be_solved_leaves_the_weights_alone() -> None:
    network = taught(LeastSquaresSG(WIDTH, WIDTH).double(), batches(SOLVE_EVERY))
    before = network.output.weight.clone()
    network.squares.fill_(-1e9)
    for h, target in batches(SOLVE_EVERY):
        network.regress(h, None, target)
    assert torch.equal(network.output.weight, before)


@pytest.mark.parametrize("rows", [1, 7])
def test_the_optimizer_of_a_synthesizer_finds_nothing_to_do(rows: int) -> None:
    network = LeastSquaresSG(WIDTH, WIDTH)
    sg = synthesizer(network, lr=1e3)
    for step in range(SOLVE_EVERY):
        h = torch.ones(rows, WIDTH)
        pending, _ = sg.synthesize(step, h, None)
        sg.learn(pending, h / rows)  # the gradient of a mean
    assert all(parameter.grad is None for parameter in network.parameters())
    h = torch.ones(rows, WIDTH)
    torch.testing.assert_close(network.synthesize(h, None), h, rtol=0, atol=0.1)


def test_a_batch_larger_than_the_memory_is_all_that_counts() -> None:
    lessons = batches(2 * SOLVE_EVERY)
    short = LeastSquaresSG(WIDTH, WIDTH, memory=8).double()
    taught(short, lessons)
    alone = LeastSquaresSG(WIDTH, WIDTH).double()
    alone._seen = SOLVE_EVERY - 1
    taught(alone, lessons[-1:])
    torch.testing.assert_close(short.output.weight, alone.output.weight)
    assert alone.memory == 2 * (2 * WIDTH + 1)


def test_a_network_loaded_from_a_state_dict_learns_the_same() -> None:
    lessons = batches(2 * SOLVE_EVERY)
    first, other = (LeastSquaresSG(WIDTH, WIDTH).double() for _ in range(2))
    taught(first, lessons[:3])
    other.load_state_dict(first.state_dict())
    for network in (first, other):
        taught(network, lessons[3:])
    assert torch.equal(first.output.weight, other.output.weight)


def test_by_default_it_remembers_at_least_2000_rows_where_it_sees_labels() -> None:
    settings = NetworkSettings(hidden=0, layers=1, rank=0, negatives=0, memory=None)
    assert LeastSquaresSG.build((WIDTH,), LABELS, settings).memory == 2000
    assert LeastSquaresSG.build((800,), LABELS, settings).memory == 2 * (2 * 800 + LABELS + 1)
    assert LeastSquaresSG(WIDTH, WIDTH, LABELS).memory == 2000
    assert LeastSquaresSG.build((WIDTH,), 0, settings).memory == 2 * (2 * WIDTH + 1)
    assert LeastSquaresSG.build((WIDTH,), LABELS, replace(settings, memory=9)).memory == 9
