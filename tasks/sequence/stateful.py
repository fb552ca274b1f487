"""Recurrent layers of layered tasks: they carry their state over, and may bootstrap a window's end."""

from __future__ import annotations

from torch import nn

from dni_async.errors import UserError
from dni_async.networks.settings import SGConfig
from dni_async.recurrent.bootstrap import dni_through_time, permuted
from dni_async.recurrent.stateful_rnn import StatefulRNN

WINDOW_ENDS = ("bptt", "dni", "dni-permuted")
"""Gradient at the end of a window: none, a synthetic one, or (a control) the synthetic one of another row."""
STATE_BOUND = 20.0
"""Largest absolute value of a state that is carried over."""
SG_OVER_TIME = SGConfig(kind="linear", units="rms")
"""The SG network at a window's end. Where the loss is a mean over time its targets are small: in other units
the network, whose steps are of one size, would not find them."""


def check_window_end(end: str) -> str:
    """Return `end`. Raises UserError unless it is one of `WINDOW_ENDS`."""
    if end not in WINDOW_ENDS:
        raise UserError(f"end is {end}; use one of {', '.join(WINDOW_ENDS)}")
    return end


def stateful_layer(core: nn.Module, end: str, *, sequence: int = 0, one_by_one: bool = False) -> StatefulRNN:
    """Return a recurrent layer that carries its state; `end` is one of `WINDOW_ENDS`, the rest as there."""
    predictor = None if end == "bptt" else dni_through_time(SG_OVER_TIME)
    if predictor is not None and end == "dni-permuted":
        predictor = permuted(predictor)
    return StatefulRNN(core, predictor, sequence=sequence, one_by_one=one_by_one, state_bound=STATE_BOUND)
