"""Injects a gradient during the backward of another module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def inject_gradient(out: Tensor, root: Tensor, gradient: Callable[[], Tensor]) -> Tensor:
    """Return a copy of `out` (any shape) whose backward also gives `root` the gradient `gradient()`.

    ```
    forward     x ──► layer ──► out ──► result ──► ...            backward    x ◄── layer ◄── dL/dout ◄── ...
                       └──────► root ─────┘                                    └─── gradient()
    ```

    A layer can add the gradient of a loss of its own (root: the loss, gradient: ones), or a synthetic
    gradient at its state, without the rest of the network knowing.
    """
    return _InjectGradient.apply(out, root, gradient)


class _InjectGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, out: Tensor, root: Tensor, gradient: Callable[[], Tensor]) -> Tensor:
        ctx.gradient = gradient
        return out.clone(memory_format=torch.contiguous_format)  # a view could not be worked on in place

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        with torch.enable_grad():  # as in the forward
            return gradient, ctx.gradient(), None
