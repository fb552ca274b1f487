"""The state of a set's or a loader's reading as a checkpoint keeps it: tensors and JSON values only.

{"place": (3, b"x"), 0: True}    {"<items>": [["place", {"<tuple>": [3, {"<bytes>": tensor}]}], [0, True]]}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy
import torch

ITEMS, TUPLE, BYTES, ARRAY = "<items>", "<tuple>", "<bytes>", "<array>"


def storable(value: Any) -> Any:
    """Return the value with tuples, bytes, arrays and keys that are no text in a form of their own. What else
    is no JSON stays as it is, and the checkpoint refuses it."""
    if isinstance(value, Mapping):
        if all(isinstance(key, str) for key in value):
            return {key: storable(part) for key, part in value.items()}
        return {ITEMS: [[storable(key), storable(part)] for key, part in value.items()]}
    if isinstance(value, tuple):
        return {TUPLE: [storable(part) for part in value]}
    if isinstance(value, list):
        return [storable(part) for part in value]
    if isinstance(value, bytes):
        return {BYTES: torch.tensor(list(value), dtype=torch.uint8)}
    if isinstance(value, numpy.ndarray):
        return {ARRAY: torch.from_numpy(value.copy())}
    return value.item() if isinstance(value, numpy.generic) else value


def restored(value: Any) -> Any:
    """Return what `storable` was given."""
    if isinstance(value, list):
        return [restored(part) for part in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {ITEMS}:
        return {restored(key): restored(part) for key, part in value[ITEMS]}
    if value.keys() == {TUPLE}:
        return tuple(restored(part) for part in value[TUPLE])
    if value.keys() == {BYTES}:
        return bytes(value[BYTES].tolist())
    if value.keys() == {ARRAY}:
        return value[ARRAY].numpy()
    return {key: restored(part) for key, part in value.items()}
