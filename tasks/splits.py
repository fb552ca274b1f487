"""A validation set where the official data have none: the last training samples, which are not trained on.

60,000 training images   0 ................. 54,999 | 55,000 ... 59,999      validation=5000
                         to train on (subset: of   | to validate
                         these the first)
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from torch import Tensor

from dni_async.errors import UserError

Rows = TypeVar("Rows", Tensor, np.ndarray)


def split_off(count: int, x: Rows, y: Rows) -> tuple[tuple[Rows, Rows], tuple[Rows, Rows]]:
    """Return ((x, y) to train on, the last `count` of x and y). Raises UserError when the former is empty."""
    left = len(x) - count
    if left < 1:
        raise UserError(f"nothing is left to train on (validation={count}): give {len(x) - 1} or less")
    return (x[:left], y[:left]), (x[left:], y[left:])
