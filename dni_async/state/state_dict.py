"""State: nested dicts and lists of tensors and JSON values, the only content of a checkpoint.

    {"layers": {"0.weight": tensor, ...}, "rule": {"scale": {...}, ...}, "counts": {"steps": 40, ...}, ...}

Every `state_dict()` returns the live tensors; `copied` detaches them from the run. `load_state_dict(state)`
does not change the state, so it may be loaded twice.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

State = dict[str, Any]


def copied(state: Any) -> Any:
    """Return the same state on the CPU, in memory of its own."""
    if isinstance(state, Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, Mapping):
        return {key: copied(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return [copied(value) for value in state]
    return state


def optimizer_state(optimizer: Optimizer, parameters: Sequence[nn.Parameter] | None = None) -> list[State]:
    """Return the optimizer's state of each parameter, without settings such as lr: in the order of
    `parameters`, else of the optimizer's groups."""
    return [dict(optimizer.state.get(parameter, {})) for parameter in parameters or _parameters(optimizer)]


def load_optimizer_state(
    optimizer: Optimizer, states: Sequence[State], parameters: Sequence[nn.Parameter] | None = None
) -> None:
    """Take up what `optimizer_state` returned; {} for a parameter that starts afresh.

    Raises ValueError for a wrong number of parameters.
    """
    order = _parameters(optimizer)
    by_parameter = dict(zip(parameters or order, states, strict=True))
    pairs = ((i, p, by_parameter[p]) for i, p in enumerate(order))
    known = {i: {key: _like(p, value) for key, value in state.items()} for i, p, state in pairs if state}
    optimizer.load_state_dict(optimizer.state_dict() | {"state": known})


def random_state() -> State:
    """Return the state of this process's random generators: torch's, numpy's and Python's."""
    version, words, gauss = random.getstate()
    of_numpy: State = dict(numpy.random.get_state(legacy=False))
    key = torch.from_numpy(of_numpy["state"]["key"].astype(numpy.int64))  # no file format has uint32
    state: State = {
        "cpu": torch.get_rng_state(),
        "python": [version, torch.tensor(words), gauss],
        "numpy": of_numpy | {"state": {"key": key, "pos": of_numpy["state"]["pos"]}},
    }
    if torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def load_random_state(state: State) -> None:
    """Take up what `random_state` returned; without numpy's and Python's, these stay as they are."""
    torch.set_rng_state(state["cpu"])
    if "python" in state:
        version, words, gauss = state["python"]
        random.setstate((version, tuple(words.tolist()), gauss))
        key, pos = state["numpy"]["state"]["key"], state["numpy"]["state"]["pos"]
        of_numpy = {"key": key.numpy().astype(numpy.uint32), "pos": pos}
        numpy.random.set_state(state["numpy"] | {"state": of_numpy})
    if "cuda" in state and torch.cuda.is_initialized():
        torch.cuda.set_rng_state(state["cuda"])


def renumbered(state: Mapping[str, Any], by: int) -> State:
    """Return the state with `by` added to the number of each layer: by 4, `0.weight` becomes `4.weight`."""
    parts = ((name.partition("."), value) for name, value in state.items())
    return {f"{int(number) + by}.{rest}": value for (number, _, rest), value in parts}


def _parameters(optimizer: Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _like(parameter: nn.Parameter, value: Any) -> Any:
    """Return a copy with the parameter's strides: fused optimizers read both as flat arrays."""
    if not isinstance(value, Tensor):
        return value
    if value.shape != parameter.shape:
        return value.clone()
    return torch.empty_like(parameter, dtype=value.dtype).copy_(value)
