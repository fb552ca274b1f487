"""Any recurrent module as a function of a window and one state tensor."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dni_async.errors import UserError

State = Any
"""A tensor, or tuples and lists of them."""


class RecurrentCore(nn.Module):
    """Runs a recurrent module over windows (B, T, ...), with its state as one tensor (B, D).

        LSTM's (h, c), each (layers, B, H)  <->  (B, D) = [h of layer 0 | h of layer 1 | c of layer 0 | ...]

    An SG network predicts from h and c together (paper, section 3.2), and one tensor is detached, joined and
    reset in the same way for every module.

    Args:
        module: nn.LSTM, GRU or RNN (either `batch_first`), an LSTMCell, GRUCell or RNNCell, or a module
            `(x, state) -> (out, state)` over windows x (B, T, ...), whose state is a tensor (B, ...) or
            tuples of them, and None at the start of a sequence.

    Raises:
        UserError: the module cannot be a core.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        if getattr(module, "bidirectional", False):
            raise UserError("a bidirectional core needs the whole sequence; use bidirectional=False")
        self.module = module
        self._batch_dim = 1 if isinstance(module, nn.RNNBase) else 0
        self._layout: State = None

    def forward(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return out (B, T, ...) and the state (B, D) after x (B, T, ...); None starts a sequence."""
        before = None if state is None else self.nested(state)
        if isinstance(self.module, nn.RNNCellBase):
            out, after = _steps(self.module, x, before)
        elif isinstance(self.module, nn.RNNBase) and not self.module.batch_first:
            out, after = self.module(x.transpose(0, 1), before)
            out = out.transpose(0, 1)
        else:
            result = self.module(x, before)
            if not (isinstance(result, tuple) and len(result) == 2):
                raise UserError(
                    f"a recurrent core gives (out, state), not {type(result).__name__}; return both"
                )
            out, after = result
        return out, self.flat(after, len(x))

    def flat(self, state: State, rows: int | None = None) -> Tensor:
        """Return the module's own state as (B, D). rows: B, if it is known."""
        parts = [part.movedim(self._batch_dim, 0) for part in _leaves(state)]
        rows = len(parts[0]) if rows is None else rows
        for part in parts:
            if len(part) != rows or not part.is_floating_point():
                raise UserError(
                    f"the core's state has a part of shape {tuple(part.shape)} and {part.dtype}; "
                    f"each must be floating point and have one row per sequence ({rows}) first"
                )
        self._layout = _like(state, iter([part.shape[1:] for part in parts]))
        return torch.cat([part.reshape(rows, -1) for part in parts], 1)

    def nested(self, state: Tensor) -> State:
        """Return the state (B, D) in the form of the module."""
        assert self._layout is not None, "a state comes from this core"
        shapes = list(_leaves(self._layout))
        flat = state.split([shape.numel() for shape in shapes], 1)
        # contiguous: cuDNN refuses a state with strides
        parts = [
            part.reshape(len(part), *shape).movedim(0, self._batch_dim).contiguous()
            for part, shape in zip(flat, shapes, strict=True)
        ]
        return _like(self._layout, iter(parts))


def _steps(cell: nn.RNNCellBase, x: Tensor, state: State) -> tuple[Tensor, State]:
    """Return outputs (B, T, H) and last state of a cell over the time steps of x (B, T, F)."""
    outs = []
    for step in x.unbind(1):
        state = cell(step, state)
        outs.append(state[0] if isinstance(state, tuple) else state)
    return torch.stack(outs, 1), state


def _leaves(state: State) -> list[Any]:
    """Return the tensors (or shapes) in nested tuples and lists."""
    if isinstance(state, (Tensor, torch.Size)):
        return [state]
    if not isinstance(state, (tuple, list)):
        raise UserError(f"the core's state is {type(state).__name__}; give a tensor or tuples of tensors")
    return [leaf for part in state for leaf in _leaves(part)]


def _like(state: State, leaves: Any) -> State:
    """Return the nesting of `state` with other leaves."""
    if isinstance(state, (Tensor, torch.Size)):
        return next(leaves)
    return tuple(_like(part, leaves) for part in state)
