"""What a model's own code does by the length of a text is found before layers do something else."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from dni_async.errors import UserError
from dni_async.partition.from_module import from_module

Change = Callable[[Tensor, int], Tensor]
"""What a model does with its embedded text (B, T, 8) of length T."""


class Text(nn.Module):
    def __init__(self, change: Change) -> None:
        super().__init__()
        self.change = change
        self.embed, self.head = nn.Embedding(20, 8), nn.Linear(8, 3)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.change(self.embed(ids), ids.shape[1]))


def split(change: Change) -> tuple[nn.Module, nn.Module]:
    model = Text(change)
    return model, nn.Sequential(*from_module(model, ["head"], ids(8)))


def ids(length: int) -> Tensor:
    return torch.arange(2 * length).reshape(2, length) % 20


DECISIONS: dict[str, tuple[Change, int]] = {
    "longer": (lambda x, t: x * 2 if t > 9 else x, 10),
    "much longer": (lambda x, t: x * 2 if t > 500 else x, 501),
    "shorter": (lambda x, t: x * 2 if t < 5 else x, 4),
    "odd": (lambda x, t: x * 2 if t % 2 else x, 7),
    "this one only": (lambda x, t: x * 2 if t == 8 else x, 7),
    "as a plain number": (lambda x, t: x * int(t), 7),
}


@pytest.mark.parametrize("name", DECISIONS)
def test_a_decision_by_a_length_is_refused_in_one_line(name: str) -> None:
    change, other = DECISIONS[name]
    with pytest.raises(
        UserError, match=rf"by a length: for inputs \(2, {other}\) .* example's \(2, 8\); move"
    ):
        split(change)


def table(x: Tensor, t: int) -> Tensor:
    """Sixteen positions and no more."""
    return x + torch.arange(16.0, device=x.device)[:t, None]


@pytest.mark.parametrize("change", [table, lambda x, t: x / t**0.5, lambda x, t: x.cumsum(1)[:, -t:]])
def test_what_a_model_computes_from_lengths_and_tables_that_end_are_fine(change: Change) -> None:
    model, layers = split(change)
    for length in (3, 8, 16):
        assert torch.equal(model(ids(length)), layers(ids(length)))
