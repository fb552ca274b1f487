"""What SG networks see of a layer's output, and the way back."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dni_async.wrapper.layout import Layout, first_tensor, replace, tensors

CASES: list[tuple[nn.Module, tuple[int, ...], tuple[int, ...]]] = [
    (nn.Linear(2, 5), (5,), (1, 5)),
    (nn.Linear(2, 5), (3, 5), (3, 5)),
    (nn.Linear(2, 5), (3, 4, 5), (3, 4, 5)),
    (nn.Linear(2, 5), (3, 4, 2, 5), (3, 8, 5)),
    (nn.LSTM(2, 5), (4, 3, 5), (3, 4, 5)),
    (nn.LSTM(2, 5, batch_first=True), (3, 4, 5), (3, 4, 5)),
    (nn.LSTM(2, 5), (4, 5), (4, 5)),
    (nn.Conv2d(1, 5, 2), (3, 5, 4, 2), (3, 5, 4, 2)),
    (nn.Sequential(nn.Conv2d(1, 5, 2)), (3, 5, 4, 2), (3, 5, 4, 2)),
    (nn.Conv1d(1, 5, 2), (3, 5, 4), (3, 4, 5)),
    (nn.Conv3d(1, 5, 2), (3, 5, 4, 2, 6), (3, 48, 5)),
]


@pytest.mark.parametrize(("module", "shape", "seen"), CASES)
def test_a_layer_is_seen_batch_first_and_features_last(module: nn.Module, shape: Any, seen: Any) -> None:
    h = torch.randn(shape)
    layout = Layout(module, h)
    assert tuple(layout.to_network(h).shape) == seen
    assert torch.equal(layout.to_layer(layout.to_network(h)), h)


@settings(deadline=None, max_examples=60)
@given(
    module=st.sampled_from(
        [nn.Linear(1, 1), nn.LSTM(1, 1), nn.Conv1d(1, 1, 1), nn.Conv2d(1, 1, 1), nn.ReLU()]
    ),
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=5),
    plain=st.booleans(),
)
def test_converting_the_layout_and_back_is_the_identity_for_any_shape(
    module: nn.Module, shape: list[int], plain: bool
) -> None:
    h = torch.randn(shape)
    layout = Layout(module, h, plain)
    assert torch.equal(layout.to_layer(layout.to_network(h)), h)


def test_a_users_class_sees_the_output_as_it_is_but_for_time() -> None:
    assert (
        Layout(nn.Linear(2, 5), torch.randn(3, 4, 2, 5), plain=True).to_network(torch.randn(3, 4, 2, 5)).ndim
        == 4
    )
    h = torch.randn(4, 3, 5)
    assert Layout(nn.GRU(2, 5), h, plain=True).to_network(h).shape == (3, 4, 5)
    assert Layout(nn.Linear(2, 5), h, plain=True).to_network(h).shape == (4, 3, 5)


@pytest.mark.parametrize("time_first", [True, False])
def test_time_first_is_believed_of_modules_that_do_not_say_it_themselves(time_first: bool) -> None:
    def seen(module: nn.Module) -> tuple[int, ...]:
        h = torch.randn(4, 3, 5)
        layout = Layout(module, h, plain=True, time_first=time_first)
        assert torch.equal(layout.to_layer(layout.to_network(h)), h)
        return tuple(layout.to_network(h).shape)

    assert seen(nn.Linear(2, 5)) == ((3, 4, 5) if time_first else (4, 3, 5))
    assert seen(nn.GRU(2, 5)) == (3, 4, 5) and seen(nn.GRU(2, 5, batch_first=True)) == (4, 3, 5)


def test_the_first_tensor_is_found_and_all_are_replaced() -> None:
    pair = namedtuple("pair", "a b")
    a, b = torch.zeros(1), torch.ones(1)
    for output in (a, (a, b), [a, b], pair((a,), b), OrderedDict(x=[a], y=b), ((a, (b, None)), 3)):
        assert first_tensor(output, nn.ReLU()) is a
        doubled = replace(output, lambda tensor: tensor + 5)
        assert type(doubled) is type(output)
        assert [float(t) for t in tensors(doubled)] == [float(t) + 5 for t in tensors(output)]
