from __future__ import annotations

import pytest
import torch
from torch import nn

from dni_async.messages import Activation, TargetGradient
from dni_async.ownership import clone_if_borrowed, starts_in_place


@pytest.mark.parametrize(
    ("layers", "answer"),
    [
        (nn.ReLU(inplace=True), True),
        (nn.Sequential(nn.Sequential(nn.ReLU(inplace=True))), True),
        (nn.Sequential(nn.Flatten(), nn.ReLU(inplace=True)), True),
        (nn.Sequential(nn.Dropout(0.5, inplace=True), nn.Linear(2, 2)), True),
        (nn.Sequential(nn.Linear(2, 2), nn.ReLU(inplace=True)), False),
        (nn.Sequential(nn.ReLU(), nn.ReLU(inplace=True)), False),
        (nn.Sequential(nn.Flatten()), False),
        (nn.Sequential(), False),
    ],
)
def test_layers_that_begin_in_place_are_recognised(layers: nn.Module, answer: bool) -> None:
    assert starts_in_place(layers) is answer


def test_only_what_lies_in_the_memory_of_a_message_is_copied() -> None:
    h, y, grad = torch.randn(4, 3), torch.arange(4), torch.randn(4, 3)
    activation, target = Activation(0, 0, h, y), TargetGradient(0, 0, grad)
    for tensor, message in ((h, activation), (y, activation), (h[1:], activation), (grad.T, target)):
        copy = clone_if_borrowed(tensor, message)
        assert torch.equal(copy, tensor)
        assert copy.untyped_storage().data_ptr() != tensor.untyped_storage().data_ptr()
    with_extras = Activation(0, 0, torch.zeros(1), torch.zeros(1), extras=(h, y))
    assert clone_if_borrowed(y, with_extras) is not y
    assert clone_if_borrowed(grad, activation) is grad
    assert clone_if_borrowed(h, target) is h
