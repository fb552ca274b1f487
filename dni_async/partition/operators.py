"""What the schema of an operator of torch says about a call: on which device, and what is written to."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves


def makes_tensor_on_cpu(func: Any, kwargs: dict[str, Any]) -> bool:
    """Whether an operation without tensors makes one on the CPU."""
    return _has_device(func) and device_of(kwargs) == "cpu"


def device_of(kwargs: dict[str, Any]) -> str:
    """Return the type of the device that the keyword arguments name, the CPU by default."""
    return torch.device(kwargs.get("device") or "cpu").type


def _has_device(func: Any) -> bool:
    return any(argument.name == "device" for argument in func._schema.arguments)


def on_meta_device(func: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the keyword arguments for a call on the meta device."""
    if not _has_device(func):
        return kwargs
    return {name: value for name, value in kwargs.items() if name != "pin_memory"} | {"device": "meta"}


def written_by(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """Return the arguments that an operation writes to."""
    written = []
    for position, argument in enumerate(func._schema.arguments):
        if argument.alias_info is None or not argument.alias_info.is_write:
            continue
        value = args[position] if position < len(args) else kwargs.get(argument.name)
        written += [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]
    return written
