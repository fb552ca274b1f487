"""Counts floating-point operations, including fused recurrent layers, which torch's counter ignores.

One step of a recurrent layer, for one row of a batch, is two products: input times weight_ih and state times
weight_hh, two operations per weight. The backward takes twice as many, for inputs and for weights, as with
any product. Elementwise operations are not counted, as in torch's counter.

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
    """Return a context whose `get_total_flops()` counts what was computed in it (a multiply-add is two)."""
    return _Totals(display=False, custom_mapping=dict(_FUSED))


class _Totals(FlopCounterMode):
    """Counts without attributing to modules: the hooks for that break `torch.autograd.grad` for leaves."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.mod_tracker = cast(ModuleTracker, _Nowhere())


class _Nowhere(nullcontext[None]):
    """Replaces torch's ModuleTracker."""

    parents = frozenset({"Global"})


def _mkldnn(x: Shape, *arguments: Any, **_: Any) -> int:
    """Operations of one layer in one direction: x (T, B, F), weight_ih (G, F), weight_hh (G, H)."""
    return _products(x, arguments[:2])


def _cudnn(x: Shape, weights: Sequence[Shape], *_: Any, **__: Any) -> int:
    """Operations of all layers: x (T, B, F), or (B, T, F), or (N, F) packed."""
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
"""Operator -> count; the counter passes shapes in place of the operator's tensors."""
