from __future__ import annotations

import torch
from torch import nn

from launch.planning.footprint import optimized_bytes, saved_bytes


def test_what_two_layers_keep_both_counts_once() -> None:
    """ReLU keeps its output, which the next Linear keeps as its input; the batch itself is not counted."""
    layers: list[nn.Module] = [
        nn.Sequential(nn.Linear(6, 8), nn.ReLU()),
        nn.Sequential(nn.Linear(8, 7), nn.ReLU()),
        nn.Linear(7, 3),
    ]
    saved, outputs = saved_bytes(layers, torch.randn(10, 6))
    assert saved == [10 * 8 * 4, 10 * 7 * 4, 0]
    assert outputs == [10 * 8 * 4, 10 * 7 * 4, 10 * 3 * 4]


def test_adam_keeps_a_gradient_and_two_means_per_weight_and_a_count_per_tensor() -> None:
    layer = nn.Linear(6, 8, bias=False)
    optimizer = torch.optim.Adam(layer.parameters())
    layer(torch.ones(2, 6)).sum().backward()
    optimizer.step()
    assert optimized_bytes(optimizer) == 4 * 6 * 8 * (1 + 1 + 2) + 4
