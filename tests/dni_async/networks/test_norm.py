from __future__ import annotations

import pytest
import torch
from torch import nn

from dni_async.networks.norm import BatchNorm, FeatureBatchNorm


def filled(norm: BatchNorm) -> BatchNorm:
    torch.manual_seed(0)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return norm.double()


@pytest.mark.parametrize("shape", [(5, 3), (4, 3, 2), (2, 3, 4, 5), (2, 3, 1, 1), (1, 3, 2, 2)])
def test_batch_normalisation_equals_torchs_without_running_statistics(shape: tuple[int, ...]) -> None:
    norm, x = filled(BatchNorm(3)), torch.randn(shape).double()
    torchs = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d}[len(shape)](
        3, track_running_stats=False
    ).double()
    torchs.load_state_dict(norm.state_dict())
    assert torch.equal(norm(x), torchs(x))
    assert torch.equal(norm.eval()(x), torchs(x))


@pytest.mark.parametrize("shape", [(4, 2, 3), (2, 5, 2, 3), (6, 3)])
def test_every_row_of_features_is_a_sample(shape: tuple[int, ...]) -> None:
    norm, x = filled(FeatureBatchNorm(3)), torch.randn(shape).double()
    rows = BatchNorm.forward(norm, x.flatten(0, -2))
    assert torch.equal(norm(x), rows.view(shape))


@pytest.mark.parametrize(
    ("norm", "shape"),
    [(BatchNorm(3), (1, 3)), (BatchNorm(3), (1, 3, 1, 1)), (FeatureBatchNorm(3), (1, 1, 3))],
)
def test_a_single_value_is_its_own_mean(norm: BatchNorm, shape: tuple[int, ...]) -> None:
    filled(norm)
    torch.testing.assert_close(norm(torch.randn(shape).double()), norm.bias.view(shape))


def test_equal_samples_and_a_single_one_give_the_same() -> None:
    norm, x = filled(BatchNorm(3)), torch.randn(1, 3).double()
    torch.testing.assert_close(norm(x.expand(4, 3))[:1], norm(x))
