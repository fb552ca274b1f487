"""Compares states, which are trees of dicts, lists, tensors and numbers."""

from __future__ import annotations

import torch
from torch import Tensor


def same_state(a: object, b: object) -> bool:
    """Whether two states are equal in every type, shape and bit."""
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same_state(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(same_state, a, b))
    return type(a) is type(b) and a == b
