from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from dni_async.delay_correction import DelayCorrection, ErrorFeedback, Nesterov
from dni_async.optim import Updater, optimizer_factory
from dni_async.state.state_dict import copied

CORRECTIONS = (lambda: ErrorFeedback(2), Nesterov)


def scalar() -> nn.Parameter:
    return nn.Parameter(torch.zeros(1))


def moved(correction: DelayCorrection | None, gradients: list[float], lr: float = 1.0) -> list[float]:
    """Where a weight that starts at zero stands after each of these gradients, stepped by SGD."""
    weight = scalar()
    updater = Updater(torch.optim.SGD([weight], lr=lr), correction=correction)
    places = []
    for gradient in gradients:
        weight.grad = torch.tensor([float(gradient)])
        updater.step()
        places.append(weight.item())
    return places


def test_error_feedback_adds_what_the_update_of_d_updates_ago_lacked() -> None:
    """x - u[t] - (u[t] - u[t-2]) from the third update on; before, what is compared with is the first."""
    assert moved(ErrorFeedback(2), [1, 2, 4, 8]) == [-1, -1 - 3, -4 - (8 - 1), -11 - (16 - 2)]


def test_error_feedback_of_a_delay_of_one_is_twice_the_update_less_the_one_before() -> None:
    assert moved(ErrorFeedback(1), [1, 2, 4]) == [-1, -4, -10]


def test_equal_gradients_are_left_as_they_are() -> None:
    assert moved(ErrorFeedback(3), [1] * 8) == moved(None, [1] * 8)


def test_nesterov_is_that_of_sgd_with_a_discounted_gradient() -> None:
    """torch: buf = m buf + g, step lr (g + m buf); with the gradient times 1 - m."""
    weight, momentum = scalar(), 0.9
    wanted = torch.optim.SGD([weight], lr=1.0, momentum=momentum, nesterov=True)
    places = []
    for gradient in (1.0, 2.0, 4.0, -3.0):
        weight.grad = torch.tensor([gradient * (1 - momentum)])
        wanted.step()
        places.append(weight.item())
    assert moved(Nesterov(momentum), [1, 2, 4, -3]) == pytest.approx(places)


@pytest.mark.parametrize("make", CORRECTIONS)
@pytest.mark.parametrize("name", ["adam", "nadam", "muon" if hasattr(torch.optim, "Muon") else "adamw"])
def test_a_restored_updater_goes_on_to_the_bit(make, name: str) -> None:
    def updater(layer: nn.Module) -> Updater:
        return Updater(optimizer_factory(name, 0.1)(list(layer.parameters())), correction=make())

    def step(layer: nn.Module, updater: Updater, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for parameter in layer.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        updater.step()

    torch.manual_seed(0)
    layer = nn.Linear(3, 2)
    first = updater(layer)
    for seed in range(3):
        step(layer, first, seed)
    other, state = copy.deepcopy(layer), copied(first.state_dict())
    second = updater(other)
    second.load_state_dict(state)
    for seed in range(3, 6):
        step(layer, first, seed)
        step(other, second, seed)
    assert all(torch.equal(a, b) for a, b in zip(layer.parameters(), other.parameters(), strict=True))


def test_error_feedback_with_the_history_of_another_delay_starts_afresh() -> None:
    weight = scalar()
    optimizer = torch.optim.SGD([weight], lr=1.0)
    optimizer.state[weight]["recent_updates"] = torch.full((5, 1), 7.0)
    weight.grad = torch.ones(1)
    ErrorFeedback(2).step(optimizer, 0)
    assert weight.item() == -1.0
    recent: Tensor = optimizer.state[weight]["recent_updates"]
    assert recent.tolist() == [[1.0], [1.0]]


def test_weights_without_a_gradient_stay() -> None:
    weights = [scalar(), scalar()]
    updater = Updater(torch.optim.SGD(weights, lr=1.0), correction=Nesterov())
    updater.step()
    weights[0].grad = torch.ones(1)
    updater.step()
    assert [weight.item() != 0 for weight in weights] == [True, False]
