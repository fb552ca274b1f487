"""The control that every table can show: stages below the last never learn."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from dni_async.rules.base import Rule
from dni_async.rules.capabilities import RuleCapabilities


class FrozenRule(Rule):
    """Rule `frozen`: no update. What another rule gains over this one, its lower stages have learned."""

    capabilities = RuleCapabilities(
        needs_targets=False,
        uses_labels=False,
        updates=False,
        supervised=True,
        resumable=True,
        skips_nonfinite=True,
        compiles=True,
        plot_style=("#8a6d5a", "p"),
    )

    @override
    def gradient(self, step: int, version: int, h: Tensor, y: Any) -> Tensor:
        return torch.zeros_like(h)
