"""State: what trains, as nested dicts and lists of tensors and JSON values. A checkpoint holds nothing else.

    {"layers": {"0.weight": tensor, ...}, "rule": {"scale": {...}, ...}, "counts": {"steps": 40, ...}, ...}

Every `state_dict()` shows the live tensors; `copied` makes them last. A `load_state_dict(state)` leaves the
state as it was, so it may be loaded twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

State = dict[str, Any]


def copied(state: Any) -> Any:
    """The same state on the CPU, in memory of its own."""
    if isinstance(state, Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, Mapping):
        return {key: copied(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return [copied(value) for value in state]
    return state


def optimizer_state(optimizer: Optimizer) -> list[State]:
    """What the optimizer keeps for each of its parameters, in their order.

    Its settings are no part of it: they come from the configuration.
    """
    return [dict(optimizer.state.get(parameter, {})) for parameter in _parameters(optimizer)]


def load_optimizer_state(optimizer: Optimizer, states: Sequence[State]) -> None:
    """Take up what `optimizer_state` gave; {} for a parameter that starts anew. Raises ValueError for a
    wrong number."""
    pairs = enumerate(zip(_parameters(optimizer), states, strict=True))
    known = {i: {key: _like(p, value) for key, value in state.items()} for i, (p, state) in pairs if state}
    optimizer.load_state_dict(optimizer.state_dict() | {"state": known})


def random_state() -> State:
    """Where torch's generators of this process stand."""
    state: State = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def load_random_state(state: State) -> None:
    """Go on from there."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_initialized():
        torch.cuda.set_rng_state(state["cuda"])


def renumbered(state: Mapping[str, Any], by: int) -> State:
    """`{"0.weight": w}` by 4 is `{"4.weight": w}`: a stage's layers by their numbers in the uncut network."""
    parts = ((name.partition("."), value) for name, value in state.items())
    return {f"{int(number) + by}.{rest}": value for (number, _, rest), value in parts}


def _parameters(optimizer: Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _like(parameter: nn.Parameter, value: Any) -> Any:
    """A copy, of the parameter's strides: the fused optimizers read both as flat arrays."""
    if not isinstance(value, Tensor):
        return value
    if value.shape != parameter.shape:
        return value.clone()
    return torch.empty_like(parameter, dtype=value.dtype).copy_(value)
