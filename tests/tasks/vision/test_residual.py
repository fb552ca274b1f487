from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dni_async.errors import UserError
from tasks.vision.residual import MnistResidual, ResidualBlock
from tests.support.mnist_files import write_mnist


def test_the_layers_are_a_linear_layer_residual_blocks_and_a_readout() -> None:
    layers, x = MnistResidual(depth=3, width=8).layers(), torch.rand(2, 784)
    assert [type(layer) for layer in layers] == [nn.Linear, *[ResidualBlock] * 3, nn.Sequential]
    widths = []
    for layer in layers:
        x = layer(x)
        widths.append(tuple(x.shape))
    assert widths == [(2, 8)] * 4 + [(2, 10)]
    assert len(MnistResidual().layers()) == 18


def test_a_block_adds_its_branch_to_its_input() -> None:
    block, h = ResidualBlock(6, 0.25), torch.randn(5, 6)
    first, norm, _, second = block.branch
    z = h @ first.weight.T
    z = (z - z.mean(0)) / (z.var(0, correction=0) + norm.eps).sqrt()
    torch.testing.assert_close(block(h), h + F.relu(z) @ second.weight.T)


def test_branches_start_scaled_so_that_the_residual_stream_does_not_grow_with_depth() -> None:
    torch.manual_seed(0)
    plain = ResidualBlock(64, 1.0).branch[-1].weight
    for depth, scale in ((16, 0.25), (4, 0.5)):
        torch.manual_seed(0)
        *blocks, _ = MnistResidual(depth=depth, width=64).layers()[1:]
        torch.manual_seed(0)
        assert torch.equal(ResidualBlock(64, depth**-0.5).branch[-1].weight, plain * scale)
        bound = scale * 64**-0.5
        assert all(0.9 * bound < block.branch[-1].weight.abs().max() <= bound for block in blocks)


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: MnistResidual(depth=0), "depth is 0; it must be at least 1"),
        (lambda: MnistResidual(width=0), "width is 0; it must be at least 1"),
        (lambda: MnistResidual(subset=-1), "subset is -1; it must be at least 0"),
        (lambda: MnistResidual(validation=-1), "validation is -1; it must be at least 0"),
    ],
)
def test_settings_that_make_no_network_are_refused(make: Callable[[], object], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        make()


def test_the_task_takes_flat_images_and_can_hold_some_out(tmp_path: Path) -> None:
    write_mnist(tmp_path / "mnist")
    task = MnistResidual(subset=5, validation=4)
    train, test = task.data(tmp_path)
    validation = task.validation(tmp_path)
    assert validation is not None
    assert [len(part) for part in (train, test, validation)] == [5, 10, 4]
    assert train.tensors[0].shape == (5, 784)
