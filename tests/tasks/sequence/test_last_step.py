"""Adding and argmax: the answer comes with the last step."""

from __future__ import annotations

import pytest
import torch

from tasks.sequence.adding import Adding
from tasks.sequence.argmax import Argmax
from tasks.sequence.last_step import EVALUATED


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_the_sum_is_wanted_at_the_last_step() -> None:
    task = Adding(length=4)
    window = task.draw(3, generator())
    digits = window.x.argmax(2)
    assert window.x.shape == (3, 4, 10) and torch.equal(window.x.sum(2), torch.ones(3, 4))
    assert window.y[:, -1].tolist() == pytest.approx((digits.sum(1) / 10).tolist())
    right = window.y.unsqueeze(2)
    assert task.loss(right, window) == 0
    off = right + 0.2  # at each step, of which one counts
    assert task.cost(off, window) == (pytest.approx(3 * 2.0, rel=1e-5), 3)
    assert task.scores(2.0) == {"absolute_error": 2.0}


def test_the_position_of_the_largest_is_wanted_at_the_last_step() -> None:
    task = Argmax(length=5)
    window = task.draw(8, generator())
    assert window.x.shape == (8, 5, 1)
    assert torch.equal(window.y[:, -1], window.x.squeeze(2).argmax(1))
    right = 50.0 * torch.nn.functional.one_hot(window.y, 5).float()
    assert task.loss(right, window) < 1e-6 and task.cost(right, window) == (0.0, 8)
    assert task.cost(-right, window) == (8.0, 8)
    assert task.scores(0.25) == {"error_rate": 0.25, "accuracy": 0.75}
    assert task.model(0).head.out_features == 5


def test_evaluation_is_the_same_for_every_seed_and_training_is_not() -> None:
    one, other = (Argmax().sequences(None, 4, seed) for seed in (0, 1))
    for split in ("validation", "test"):
        (a,), (b,) = one.evaluation(split), other.evaluation(split)
        assert torch.equal(a.x, b.x) and len(a.x) == EVALUATED and a.is_last
    assert not torch.equal(next(one.training(3)).x, next(other.training(3)).x)


def test_an_epoch_has_its_updates_and_finishes_its_last_sequence() -> None:
    windows = list(Adding(length=10, updates=4).sequences(None, 2, 0).training(4))
    assert [window.is_last for window in windows] == [False, False, True] * 2
