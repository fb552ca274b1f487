"""The control that every table can show: stages below the last never update."""

from __future__ import annotations

import torch
from torch import Tensor

from dni_async.rules.base import Rule


class FrozenRule(Rule):
    """No gradient, no update. What a decoupled run gains over this, its lower stages have learned."""

    wants_targets = False
    updates = False

    def gradient(self, step: int, version: int, h: Tensor, y: Tensor) -> Tensor:
        """Zero."""
        return torch.zeros_like(h)
