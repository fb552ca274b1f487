"""Rotary position embedding."""

from __future__ import annotations

import math

import pytest
import torch

from dni_async.errors import UserError
from tasks.rotary import RotaryEmbedding


def test_pairs_of_features_are_turned_by_position_and_speed() -> None:
    turned = RotaryEmbedding(4, 8)(torch.tensor([1.0, 2.0, 0.0, 0.0]).expand(1, 1, 8, 4))
    for position in range(8):
        slow = position / 100
        wanted = [math.cos(position), 2 * math.cos(slow), math.sin(position), 2 * math.sin(slow)]
        torch.testing.assert_close(turned[0, 0, position], torch.tensor(wanted))


def test_products_of_queries_and_keys_depend_on_their_distance_alone() -> None:
    rotary = RotaryEmbedding(6, 12).double()
    q, k = torch.randn(2, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    q_at, k_at = (rotary(row.expand(1, 1, 12, 6))[0, 0] for row in (q, k))
    products = q_at @ k_at.T
    for distance in range(-11, 12):
        same = products.diagonal(distance)
        torch.testing.assert_close(same, same[:1].expand_as(same), rtol=1e-5, atol=1e-5)
    assert not torch.isclose(products[0, 0], products[0, 5])


def test_the_first_position_is_left_as_it_is() -> None:
    x = torch.randn(2, 3, 5, 4)
    assert torch.equal(RotaryEmbedding(4, 5)(x)[:, :, 0], x[:, :, 0])


def test_rotary_tables_are_no_part_of_the_weights() -> None:
    assert not RotaryEmbedding(4, 5).state_dict()


def test_more_positions_than_the_context_are_refused() -> None:
    with pytest.raises(UserError, match=r"6 positions exceeds the context of the model \(context=5\)"):
        RotaryEmbedding(4, 5)(torch.randn(1, 1, 6, 4))
