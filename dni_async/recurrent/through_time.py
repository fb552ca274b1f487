"""DNI through time: truncated BPTT whose windows end in a synthetic gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from dni_async.errors import UserError
from dni_async.messages import TargetGradient
from dni_async.recurrent.auxiliary_task import Auxiliary
from dni_async.recurrent.core import RecurrentCore
from dni_async.recurrent.gradient_injection import inject_gradient
from dni_async.state.state_dict import State
from dni_async.synthesis.predictor import Predictor

DISCOUNT = 0.95
"""Factor on the targets, each of which depends on the next prediction (measured: 0.9 and 1.0 are worse)."""

MakePredictor = Callable[[Tensor], Predictor]
"""Return a predictor for states like the given one, (B, D)."""


class ThroughTime:
    """Trains a recurrent core on windows of T steps (Jaderberg et al. 2017, sections 2.1 and 3.2).

    ```
    through = ThroughTime(core, dni_through_time())        # without the second: plain truncated BPTT
    for x, y, ends in windows:                             # x (B, T, ...), ends: True, False or (B,)
        through.backward(loss(head(through(x)), y), ends)
        optimizer.step()
        optimizer.zero_grad()
    ```

    At a window's end the SG network predicts dL/ds of all later windows from the state s alone (of an LSTM
    from h and c together). The backward of the next window reaches the same s: that gradient, which includes
    the next prediction, is the target.

    ```
    window         0                 1                 2 (the sequence ends)
    state     0 ───────────── s1 ─────────────── s2 ───────────────
    injected               SG(s1)             SG(s2)              0
    target             -            ds1 -> SG(s1)      ds2 -> SG(s2)
    ```

    What is minimised is the sum over the windows of the mean loss over the rows of a window.

    Args:
        core: see `RecurrentCore`.
        predictor: makes the predictor for a first state (B, D), such as `dni_through_time()`; None for none.
        discount: factor on the targets.
        state_bound: the state between windows is clamped to plus and minus this. A bound of 20 or more hardly
            changes the output of an LSTM, and keeps its cells and the SG network's inputs bounded.
        auxiliary: the auxiliary task.
    """

    def __init__(
        self,
        core: nn.Module,
        predictor: MakePredictor | None = None,
        *,
        discount: float = DISCOUNT,
        state_bound: float | None = None,
        auxiliary: Auxiliary | None = None,
    ) -> None:
        self.core = core if isinstance(core, RecurrentCore) else RecurrentCore(core)
        self.discount = discount
        self.state_bound = state_bound
        self.predictor: Predictor | None = None
        self.auxiliary = auxiliary
        self.windows = 0
        """Windows trained so far."""
        self._make = predictor
        self._largest: Tensor | None = None
        self.reset()

    def reset(self) -> None:
        """Forget the state: all rows start new sequences, and a pending prediction gets no target."""
        self._state: Tensor | None = None
        self._rows: Tensor | None = None
        self._window: tuple[Tensor | None, Tensor, Tensor] | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """Return the core's outputs (B, T, ...) over the window x (B, T, ...), from the state before it."""
        if x.ndim < 2 or not x.shape[1]:
            raise UserError(f"a window has shape (B, T, ...) with T of at least 1, not {tuple(x.shape)}")
        start = self._state
        if start is not None and len(start) != len(x):
            raise UserError(
                f"a window of {len(x)} rows follows one of {len(start)}; end the sequences first, or reset()"
            )
        if start is not None and self._make is not None:
            start = start.requires_grad_()
        out, end = self.core(x, start)
        if self.state_bound is not None:
            end = end.clamp(-self.state_bound, self.state_bound)
        self._window = start, end, out
        return out

    def attach(self, ends: bool = False) -> Tensor:
        """Return the window's output (B, T, ...), whose backward does the work of `self.backward`.

        For a caller that has no loss of its own. The next windows may run before that backward, but backwards
        must come in the order of the windows. Not with the auxiliary task.

        ends: whether all sequences end with this window.

        ```
        through(x0)  attach -> out0     through(x1)  attach -> out1    ...
                     next state s1                   next state s2
        backward of out0:  SG(s1) injected              backward of out1:  SG(s2) injected, ds1 -> SG(s1)
        ```
        """
        assert self._window is not None, "run a window first"
        assert self.auxiliary is None, "its loss needs the prediction before the backward"
        start, end, out = self._window
        self._window = None
        number = self.windows
        self.windows += 1
        if start is not None and start.requires_grad:
            start.register_post_accumulate_grad_hook(lambda start: self._learn(start, number))
        if self._make is not None and end.requires_grad and not ends:
            last = end.detach()
            out = inject_gradient(out, end, lambda: self._predict(last, None, number))
        self._keep_state(end.detach(), None, not ends)
        return out

    def backward(self, loss: Tensor, ends: Tensor | bool = False) -> None:
        """Backward through the window just run, train the SG network, and keep the state for the next window.

        Args:
            loss: scalar, the mean over the rows.
            ends: (B,) rows whose sequence ends with this window; their next window starts from zero.
        """
        assert self._window is not None, "run a window first"
        start, end, out = self._window
        self._window = None
        rows = _rows_that_go_on(ends, len(end))
        roots, gradients = [loss], [torch.ones_like(loss)]
        going_on = rows is None or len(rows) > 0
        if self._make is not None and going_on:
            gradient = self._predict(end.detach(), rows, self.windows)
            if end.requires_grad:  # otherwise nothing in the core learns
                roots.append(end)
                gradients.append(gradient)
            if self.auxiliary is not None:
                wanted = len(gradient) * _select(gradient, rows)
                roots.append(self.auxiliary.loss(_select(out[:, 0], rows), wanted))
                gradients.append(torch.ones_like(roots[-1]))
        torch.autograd.backward(roots, gradients)
        if self.auxiliary is not None:
            self.auxiliary.step()
        if start is not None and start.requires_grad:
            self._learn(start, self.windows)
        self.windows += 1
        self._keep_state(end.detach(), rows, going_on)

    def stats(self) -> dict[str, Any]:
        """Return the largest |state| since the epoch began, and the predictor's numbers."""
        largest = None if self._largest is None else float(self._largest)
        return {"state_max": largest} | (self.predictor.stats() if self.predictor is not None else {})

    def new_epoch(self) -> None:
        """Start these numbers over."""
        self._largest = None
        if self.predictor is not None:
            self.predictor.new_epoch()

    def state_dict(self) -> State:
        """Return what a resumed run needs between two windows; numbers for reports are not kept."""
        state = None if self._state is None else self.core.nested(self._state)
        saved: State = {"windows": self.windows, "state": state, "rows": self._rows, "predictor": None}
        if self.predictor is not None:
            saved["predictor"] = {"width": self._width, "state": self.predictor.state_dict()}
        return saved

    def load_state_dict(self, state: State) -> None:
        """Take up what `state_dict` returned."""
        weight = next(self.core.parameters())
        self.reset()
        self.windows = state["windows"]
        if state["rows"] is not None:
            self._rows = state["rows"].to(weight.device)
        if state["state"] is not None:
            self._state = self.core.flat(state["state"]).to(weight.device)
        if state["predictor"] is not None:
            self.predictor = self._make_for(weight.new_empty(0, state["predictor"]["width"]))
            self.predictor.load_state_dict(state["predictor"]["state"])

    def _make_for(self, state: Tensor) -> Predictor:
        """Return a new predictor for states like this one (B, D)."""
        assert self._make is not None
        self._width = state.shape[1]
        return self._make(state)

    def _predict(self, end: Tensor, rows: Tensor | None, window: int) -> Tensor:
        """Return the gradient at the window's end (B, D): predicted for `rows` (K,), zero for the others."""
        seen = _select(end, rows)
        if self.predictor is None:
            self.predictor = self._make_for(seen)
        prediction = self.predictor.predict(window + 1, window, seen, seen)
        if rows is None:
            return prediction
        # the prediction is for a mean over K rows, the loss is a mean over B
        share = len(rows) / len(end)
        return torch.zeros_like(end).index_copy_(0, rows, prediction * share)

    def _learn(self, start: Tensor, window: int) -> None:
        """Train the predictor on the gradient at the window's start (B, D); rows that started there have
        none."""
        if self.predictor is None:
            return  # the earlier windows ran without autograd
        gradient = torch.zeros_like(start) if start.grad is None else start.grad  # the core may ignore it
        target = _select(gradient, self._rows)
        target = target * (self.discount * len(start) / len(target))
        self.predictor.take(TargetGradient(window, window, target))

    def _keep_state(self, end: Tensor, rows: Tensor | None, going_on: bool) -> None:
        """Keep the state (B, D) of the `rows` (K,) that go on, None for all."""
        largest = end.abs().max()
        self._largest = largest if self._largest is None else torch.maximum(self._largest, largest)
        self._rows = rows
        self._state = end if going_on else None
        if rows is not None and going_on:
            self._state = torch.zeros_like(end).index_copy_(0, rows, end[rows])


def _rows_that_go_on(ends: Tensor | bool, rows: int) -> Tensor | None:
    """Return the indices (K,) of the rows whose sequence goes on after the window; None for all of them."""
    if isinstance(ends, bool):
        return torch.empty(0, dtype=torch.long) if ends else None
    if ends.shape != (rows,) or ends.dtype != torch.bool:
        raise UserError(
            f"ends has shape {tuple(ends.shape)} and {ends.dtype}; give one bool per row ({rows},)"
        )
    kept = (~ends).nonzero().squeeze(1)
    return None if len(kept) == rows else kept


def _select(tensor: Tensor, rows: Tensor | None) -> Tensor:
    return tensor if rows is None else tensor.index_select(0, rows)
