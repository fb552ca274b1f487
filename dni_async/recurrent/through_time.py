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
from dni_async.rules.dni import StagePredictor
from dni_async.state.state_dict import State

DISCOUNT = 0.95
"""Factor on the targets, which are bootstrapped from one another (RECIPES: 0.9 and 1.0 are worse)."""

MakePredictor = Callable[[Tensor], StagePredictor]
"""Makes a predictor for states like the one given, (B, D)."""


class ThroughTime:
    """Trains a recurrent core on windows of T steps (Jaderberg et al. 2017, sections 2.1 and 3.2).

    ```
    through = ThroughTime(core, dni_through_time())        # without the second: plain truncated BPTT
    for x, y, ends in windows:                             # x (B, T, ...), ends: True, False or (B,)
        through.backward(loss(head(through(x)), y), ends)
        optimizer.step()
        optimizer.zero_grad()
    ```

    At a window's end the SG network predicts dL/ds for all that follows, from the state s alone (for an LSTM
    over h and c together). The next window's backward arrives at the same s: that gradient, which has the
    next prediction in it, is the target.

    ```
    window         0                 1                 2 (the sequence ends)
    state     0 ───────────── s1 ─────────────── s2 ───────────────
    injected               SG(s1)             SG(s2)              0
    target             -            ds1 -> SG(s1)      ds2 -> SG(s2)
    ```

    core: see `RecurrentCore`. The loss is a mean over the rows of a window; in sum over the windows it
    is what is minimised. predictor: makes the predictor for a first state (B, D): `dni_through_time()`, or an
    oracle. discount: factor on the targets. state_bound: what is carried over is clamped to it. From
    20 on that hardly changes an LSTM's output, but it keeps its cells, and so the SG network, from growing
    without limit. auxiliary: the paper's auxiliary task.
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
        self.predictor: StagePredictor | None = None
        self.auxiliary = auxiliary
        self.windows = 0
        """Windows trained so far."""
        self._make = predictor
        self._largest: Tensor | None = None
        self.reset()

    def reset(self) -> None:
        """Forget the state: all rows start new sequences, and a target that was to come never will."""
        self._state: Tensor | None = None
        self._rows: Tensor | None = None
        self._window: tuple[Tensor | None, Tensor, Tensor] | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """The core's outputs (B, T, ...) over the window x (B, T, ...), from the state carried over."""
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
        """In place of `backward`, where others have the loss: the window's output, whose backward does all.

        It may come when the next windows have been run already, but in their order; the state is carried over
        at once. ends: whether all sequences end with this window. Without the auxiliary task.

        ```
        through(x0)  attach -> out0     through(x1)  attach -> out1    ...
                     s1 is carried                   s2 is carried
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
            start.register_post_accumulate_grad_hook(lambda start: self._teach(start, number))
        if self._make is not None and end.requires_grad and not ends:
            last = end.detach()
            out = inject_gradient(out, end, lambda: self._predict(last, None, number))
        self._carry(end.detach(), None, not ends)
        return out

    def backward(self, loss: Tensor, ends: Tensor | bool = False) -> None:
        """Backward through the window just run; trains the SG network; carries the state over.

        loss: scalar, the mean over the rows. ends: the rows (B,) whose sequence ends with this window: no
        gradient comes from behind it, and the next window starts them anew.
        """
        assert self._window is not None, "run a window first"
        start, end, out = self._window
        self._window = None
        rows = _rows_that_go_on(ends, len(end))
        roots, gradients = [loss], [torch.ones_like(loss)]
        going_on = rows is None or len(rows) > 0
        if self._make is not None and going_on:
            gradient = self._predict(end.detach(), rows, self.windows)
            if end.requires_grad:  # else nothing in the core learns
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
            self._teach(start, self.windows)
        self.windows += 1
        self._carry(end.detach(), rows, going_on)

    def stats(self) -> dict[str, Any]:
        """The largest |state| carried since the epoch began, and how well the SG network does."""
        largest = None if self._largest is None else float(self._largest)
        return {"state_max": largest} | (self.predictor.stats() if self.predictor is not None else {})

    def new_epoch(self) -> None:
        """Start the numbers over."""
        self._largest = None
        if self.predictor is not None:
            self.predictor.new_epoch()

    def state_dict(self) -> State:
        """What it goes on from, between two windows; numbers that are only reported start over."""
        state = None if self._state is None else self.core.nested(self._state)
        told: State = {"windows": self.windows, "state": state, "rows": self._rows, "predictor": None}
        if self.predictor is not None:
            told["predictor"] = {"width": self._width, "state": self.predictor.state_dict()}
        return told

    def load_state_dict(self, state: State) -> None:
        """Go on from there."""
        weight = next(self.core.parameters())
        self.reset()
        self.windows = state["windows"]
        if state["rows"] is not None:
            self._rows = state["rows"].to(weight.device)
        if state["state"] is not None:
            self._state = self.core.flat(state["state"]).to(weight.device)
        if state["predictor"] is not None:
            self.predictor = self._made_for(weight.new_empty(0, state["predictor"]["width"]))
            self.predictor.load_state_dict(state["predictor"]["state"])

    def _made_for(self, state: Tensor) -> StagePredictor:
        """A new predictor for states like this one (B, D)."""
        assert self._make is not None
        self._width = state.shape[1]
        return self._make(state)

    def _predict(self, end: Tensor, rows: Tensor | None, window: int) -> Tensor:
        """The gradient at the window's end (B, D): the prediction where a row goes on, else zero."""
        seen = _select(end, rows)
        if self.predictor is None:
            self.predictor = self._made_for(seen)
        prediction = self.predictor.predict(window + 1, window, seen, seen)
        if rows is None:
            return prediction
        # the prediction is for a mean over len(rows), the loss is a mean over all
        share = len(rows) / len(end)
        return torch.zeros_like(end).index_copy_(0, rows, prediction * share)

    def _teach(self, start: Tensor, window: int) -> None:
        """The target for the prediction at the window's start; rows that started anew have none."""
        if self.predictor is None:
            return  # the windows so far were run without autograd
        assert start.grad is not None
        target = _select(start.grad, self._rows)
        target = target * (self.discount * len(start) / len(target))
        self.predictor.take(TargetGradient(window, window, target))

    def _carry(self, end: Tensor, rows: Tensor | None, going_on: bool) -> None:
        largest = end.abs().max()
        self._largest = largest if self._largest is None else torch.maximum(self._largest, largest)
        self._rows = rows
        self._state = end if going_on else None
        if rows is not None and going_on:
            self._state = torch.zeros_like(end).index_copy_(0, rows, end[rows])


def _rows_that_go_on(ends: Tensor | bool, rows: int) -> Tensor | None:
    """Indices (K,) of the rows whose sequence goes on behind the window; None for all of them."""
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
