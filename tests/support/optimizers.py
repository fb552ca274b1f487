"""The optimizers of torch."""

from __future__ import annotations

import torch
from torch.optim import Optimizer

OPTIMIZERS = [
    name
    for name, value in vars(torch.optim).items()
    if isinstance(value, type)
    and issubclass(value, Optimizer)
    and name not in ("Optimizer", "LBFGS", "SparseAdam")
]
"""Names of all that can train a stage: LBFGS needs a closure, SparseAdam sparse gradients."""
