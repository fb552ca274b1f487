"""Strings that repeat themselves."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dni_async.errors import UserError
from tasks.text.induction import Induction, periodic


def test_every_string_repeats_itself_with_a_period_of_5_to_15() -> None:
    x, y = periodic(300, 40, torch.Generator().manual_seed(0)).tensors
    assert torch.equal(x[:, 1:], y[:, :-1])
    strings = torch.cat([x, y[:, -1:]], 1)
    repeats = torch.stack([(strings[:, p:] == strings[:, :-p]).all(1) for p in range(1, 16)], 1)
    assert repeats.any(1).all()
    shortest = {int(row.nonzero()[0]) + 1 for row in repeats}
    assert shortest == set(range(5, 16))
    assert set(strings.flatten().tolist()) == set(range(16))


def test_data_is_the_same_in_every_process_and_training_and_test_set_differ() -> None:
    first, second = (Induction(samples=20).data(None) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one.tensors[0], other.tensors[0])
    assert [len(part) for part in first] == [20, 512]
    assert not torch.equal(first[0].tensors[0], first[1].tensors[0][:20])


def test_the_metric_is_over_the_second_half_in_bits() -> None:
    task = Induction(samples=3)
    x, y = task.data(None)[0][:]
    output = nn.Sequential(*task.layers())(x)
    each = F.cross_entropy(output.flatten(0, 1), y.flatten(), reduction="none").view(3, 32)[:, 16:]
    torch.testing.assert_close(task.metric(output, y), each.mean(1))
    assert task.reported(math.log(4)) == pytest.approx(2)


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"context": 31}, "context is 31"), ({"width": 30}, "width=30 cannot"), ({"depth": 0}, "depth is 0")],
)
def test_sizes_that_do_not_fit_are_refused(settings: dict[str, int], words: str) -> None:
    with pytest.raises(UserError, match=words):
        Induction(**settings)
