"""Counts floating-point operations, those of fused recurrent layers too, which torch's counter does not know.

One step of a recurrent layer, for a row of a batch, is two products: of the input with weight_ih and of the
state with weight_hh. That is two operations per weight; the backward makes twice as many (with respect to
inputs and to weights), as for any product. Elementwise work counts nothing, as everywhere.

                 CPU, float32                  CUDA
    LSTM         mkldnn_rnn_layer              _cudnn_rnn
    GRU, RNN     products, counted by torch    _cudnn_rnn
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from math import prod
from typing import Any, cast

import torch
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.module_tracker import ModuleTracker

Shape = Sequence[int]


def flop_counter() -> FlopCounterMode:
    """A context whose `get_total_flops()` is what was computed in it so far (a multiplication and an addition
    are two)."""
    return _Totals(display=False, custom_mapping=dict(_FUSED))


class _Totals(FlopCounterMode):
    """Does not say which module it was. To know that, torch hangs hooks on tensors, with which
    `torch.autograd.grad` for leaves, such as an SG network's own, fails."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.mod_tracker = cast(ModuleTracker, _Nowhere())


class _Nowhere(nullcontext[None]):
    """In place of torch's ModuleTracker."""

    parents = frozenset({"Global"})


def _mkldnn(x: Shape, *arguments: Any, **_: Any) -> int:
    """One layer in one direction: x (T, B, F), weight_ih (G, F), weight_hh (G, H)."""
    return _products(x, arguments[:2])


def _cudnn(x: Shape, weights: Sequence[Shape], *_: Any, **__: Any) -> int:
    """All layers at once: x (T, B, F), or (B, T, F), or (N, F) packed."""
    return _products(x, [weight for weight in weights if len(weight) == 2])


def _products(x: Shape, weights: Sequence[Shape]) -> int:
    return 2 * prod(x[:-1]) * sum(prod(weight) for weight in weights)


def _twice(count: Callable[..., int]) -> Callable[..., int]:
    return lambda *arguments, **named: 2 * count(*arguments, **named)


_ATEN = torch.ops.aten
_FUSED: dict[Any, Callable[..., int]] = {
    _ATEN.mkldnn_rnn_layer: _mkldnn,
    _ATEN.mkldnn_rnn_layer_backward: _twice(_mkldnn),
    _ATEN._cudnn_rnn: _cudnn,
    _ATEN._cudnn_rnn_backward: _twice(_cudnn),
}
"""By operator; the counter hands shapes in, where an operator has tensors."""
