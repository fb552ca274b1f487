"""FLOPs of recurrent layers, fused or not."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dni_async.networks import HeadSG
from dni_async.partition.flops import _cudnn, flop_counter

BATCH, STEPS, INPUTS, HIDDEN = 4, 5, 6, 8
GATES = {nn.LSTM: 4, nn.GRU: 3, nn.RNN: 1}


def counted(module: nn.Module) -> tuple[int, int]:
    """Of the forward, and of the backward."""
    x = torch.randn(STEPS, BATCH, INPUTS, requires_grad=True)
    with flop_counter() as counter:
        out = module(x)[0]
        forward = counter.get_total_flops()
        out.sum().backward()
        return forward, counter.get_total_flops() - forward


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("kind", GATES)
def test_a_step_is_two_products_and_the_backward_twice_as_much(kind: type[nn.RNNBase], layers: int) -> None:
    weights = GATES[kind] * HIDDEN * (INPUTS + HIDDEN + (layers - 1) * 2 * HIDDEN)
    forward, backward = counted(kind(INPUTS, HIDDEN, layers))
    assert forward == 2 * STEPS * BATCH * weights
    # the state at the start needs no gradient, which products that are counted one by one show
    assert 2 * forward - layers * 2 * BATCH * GATES[kind] * HIDDEN**2 <= backward <= 2 * forward


@pytest.mark.filterwarnings("ignore:TF32 acceleration:UserWarning")  # the switch sets all of mkldnn's flags
@pytest.mark.parametrize("layers", [1, 2])
def test_the_fused_lstm_counts_as_its_products_do(layers: int) -> None:
    module = nn.LSTM(INPUTS, HIDDEN, layers)
    fused = counted(module)
    with torch.backends.mkldnn.flags(enabled=False):
        forward, backward = counted(module)
    assert fused[0] == forward > 0
    assert fused[1] == pytest.approx(backward, rel=0.15)


def test_layers_that_a_gpu_runs_together_count_together() -> None:
    weights = [(32, 6), (32, 8), (32,), (32,), (32, 8), (32, 8), (32,), (32,)]
    assert _cudnn((STEPS, BATCH, INPUTS), weights, 4, None) == 2 * STEPS * BATCH * 32 * (6 + 8 + 8 + 8)


def test_products_outside_the_lstm_are_counted_as_usual() -> None:
    with flop_counter() as counter:
        torch.ones(2, 3) @ torch.ones(3, 5)
    assert counter.get_total_flops() == 60


def test_gradients_of_leaves_within_are_counted_too() -> None:
    """The head asks for those of its own parameters, and to learn, for gradients of gradients."""
    network = HeadSG(2, 3, 6, 4)
    with flop_counter() as counter:
        network.synthesize(torch.randn(BATCH, 2, 6, 6), torch.eye(3)[[0, 1, 2, 0]])
        predicted = counter.get_total_flops()
        network.regress(torch.randn(BATCH, 2, 6, 6), torch.eye(3)[[0, 1, 2, 0]], torch.randn(BATCH, 2, 6, 6))
    assert 0 < 2 * predicted < counter.get_total_flops()
