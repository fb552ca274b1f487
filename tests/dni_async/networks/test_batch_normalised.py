from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dni_async.networks.batch_normalised import batch_normalised


class Residual(nn.Sequential):
    def forward(self, h: Tensor) -> Tensor:
        return h + super().forward(h)


class Skip(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(4))

    def forward(self, h: Tensor) -> Tensor:
        return h + self.weight * h


def block(inputs: int = 4, *, dropout: bool = False) -> nn.Sequential:
    rest = [nn.Dropout()] if dropout else []
    return nn.Sequential(nn.Linear(inputs, 4), nn.BatchNorm1d(4), nn.ReLU(), *rest)


CHAINS = {
    "groups of Linear, BatchNorm1d, ReLU": ([block(), block(dropout=True), nn.Linear(4, 2)], "yes yes no"),
    "single modules": (
        [nn.Flatten(), nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)],
        "no no yes yes no",
    ),
    "nested groups": ([nn.Sequential(block(), nn.Sequential(block())), nn.Linear(4, 2)], "yes no"),
    "no normalisation": ([nn.Sequential(nn.Linear(4, 4), nn.ReLU()), nn.Linear(4, 2)], "no no"),
    "normalised before the linear layer": ([nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 4))], "no"),
    "another activation": ([nn.Sequential(nn.BatchNorm1d(4), nn.Softplus())], "no"),
    "layer norm": ([nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.ReLU())], "no"),
    "images": ([nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU())], "no"),
    "an empty group": ([block(), nn.Sequential(), nn.Identity()], "yes yes yes"),
}


@pytest.mark.parametrize("name", CHAINS)
def test_outputs_of_a_chain_are_normalised_where_it_ends_in_batch_norm(name: str) -> None:
    layers, expected = CHAINS[name]
    assert batch_normalised(layers) == [word == "yes" for word in expected.split()]


@pytest.mark.parametrize(
    "other",
    [Residual(nn.Linear(4, 4)), Skip(), nn.TransformerEncoderLayer(4, 1)],
    ids=lambda m: type(m).__name__,
)
def test_a_module_that_may_add_its_input_to_its_output_makes_no_output_count_as_normalised(
    other: nn.Module,
) -> None:
    assert batch_normalised([block(), other, block(), nn.Linear(4, 2)]) == [False] * 4
    assert batch_normalised([nn.Sequential(other, *block()), nn.Linear(4, 2)]) == [False] * 2
