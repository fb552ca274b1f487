"""A second root for a backward that others start."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def inject_gradient(out: Tensor, root: Tensor, gradient: Callable[[], Tensor]) -> Tensor:
    """`out` as it is, in memory of its own; when its backward comes by, `root` gets `gradient()`.

    ```
    forward     x ──► layer ──► out ──► attached ──► ...          backward    x ◄── layer ◄── dL/dout ◄── ...
                       └──────► root ─────┘                                    └─── gradient()
    ```

    So a layer brings in a gradient that the rest of the network knows nothing of: that of a loss of its own
    (root the loss, gradient ones), or a synthetic one at the state that it carries over.
    """
    result: Tensor = _InjectGradient.apply(out, root, gradient)
    return result


class _InjectGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, out: Tensor, root: Tensor, gradient: Callable[[], Tensor]) -> Tensor:
        ctx.gradient = gradient
        return out.clone(memory_format=torch.contiguous_format)  # a view could not be worked on in place

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        with torch.enable_grad():  # as it was in the forward
            return gradient, ctx.gradient(), None
