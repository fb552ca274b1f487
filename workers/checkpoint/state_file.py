"""A state as one safetensors file: tensors as tensors, the rest as JSON in its metadata. No pickle.

{"rule": {"draws": tensor, "updates": 7}}

tensors    "state/rule/draws"
metadata   {"state": {"rule": {"draws": {"<tensor>": "state/rule/draws"}, "updates": 7}, "<label>": "step 3"}}
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from safetensors.torch import load, save
from torch import Tensor

from dni_async.errors import UserError
from dni_async.state.state_dict import State

_TENSOR, _LABEL = "<tensor>", "<label>"
_LENGTH = 8
"""Bytes of the length of the header, at the start of a safetensors file."""


def to_bytes(state: State, label: str = "") -> bytes:
    """The content of the file. Raises UserError for a value that is neither tensor nor JSON.

    Args:
        state: its tensors must not share memory (see `copied`).
        label: words about it, for `label_of`.
    """
    tensors: dict[str, Tensor] = {}
    text = json.dumps(_without_tensors(state, "state", tensors) | ({_LABEL: label} if label else {}))
    return save(tensors, {"state": text})


def from_bytes(data: bytes) -> State:
    """The state, on the CPU. Raises ValueError, KeyError, TypeError or SafetensorError for another file."""
    text = _text(data)
    text.pop(_LABEL, None)
    state: State = _with_tensors(text, load(data))
    return state


def label_of(data: bytes) -> str:
    """The label of the file, "" if it has none. Raises ValueError, KeyError or TypeError for another file."""
    return str(_text(data).get(_LABEL, ""))


def _text(data: bytes) -> dict[str, Any]:
    """The state with names in place of its tensors, and the label."""
    length = int.from_bytes(data[:_LENGTH], "little")
    header = json.loads(data[_LENGTH : _LENGTH + length])
    text = json.loads(header["__metadata__"]["state"])
    if not isinstance(text, dict):
        raise TypeError("no state")
    return text


def _without_tensors(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """The value with names in place of its tensors, which are put into `tensors`."""
    if isinstance(value, Tensor):
        tensors[path] = value.contiguous()
        return {_TENSOR: path}
    if isinstance(value, Mapping):
        return {key: _without_tensors(part, f"{path}/{key}", tensors) for key, part in value.items()}
    if isinstance(value, list):
        return [_without_tensors(part, f"{path}/{i}", tensors) for i, part in enumerate(value)]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise UserError(f"{path} is a {type(value).__name__}, which a checkpoint cannot keep")


def _with_tensors(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, dict):
        if value.keys() == {_TENSOR}:
            return tensors[value[_TENSOR]]
        return {key: _with_tensors(part, tensors) for key, part in value.items()}
    return [_with_tensors(part, tensors) for part in value] if isinstance(value, list) else value
