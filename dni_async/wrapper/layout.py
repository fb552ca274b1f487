"""Converts the output of a layer to what an SG network sees: one tensor, batch first, features last."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from dni_async.errors import UserError

FormatFn = Callable[[Any, nn.Module], Tensor]
"""(output, module) -> the tensor of the output that is the interface."""

FEATURES_LAST = (nn.Linear, nn.LayerNorm, nn.Embedding, nn.RNNBase)
CHANNELS_FIRST = (nn.Conv1d, nn.BatchNorm1d, nn.InstanceNorm1d, nn.Conv3d, nn.BatchNorm3d, nn.InstanceNorm3d)


def first_tensor(output: Any, module: nn.Module) -> Tensor:
    """Return the output, or the first tensor in its tuples, lists and dicts: of an LSTMCell, h."""
    while not isinstance(output, Tensor):
        values = list(output.values()) if isinstance(output, dict) else output
        if not isinstance(values, (tuple, list)) or not values:
            raise UserError(
                f"{type(module).__name__} gives {type(output).__name__}, in which there is no tensor; "
                "say with format_fn(output, module) which one to use"
            )
        output = values[0]
    return output


def replace(output: Any, exchange: Callable[[Tensor], Tensor]) -> Any:
    """Return `output` with every tensor in its tuples, lists and dicts exchanged."""
    if isinstance(output, Tensor):
        return exchange(output)
    if isinstance(output, tuple) and hasattr(output, "_fields"):  # a named tuple
        return type(output)(*(replace(value, exchange) for value in output))
    if isinstance(output, (tuple, list)):
        return type(output)(replace(value, exchange) for value in output)
    if isinstance(output, dict):
        return type(output)((key, replace(value, exchange)) for key, value in output.items())
    return output


def tensors(output: Any) -> list[Tensor]:
    """Return all tensors in `output`."""
    found: list[Tensor] = []
    replace(output, lambda tensor: found.append(tensor) or tensor)  # type: ignore[func-returns-value]
    return found


class Layout:
    """Converts a layer's output to the shape that the SG network sees, and gradients back.

        layer's output                                   SG network sees
        (D)                       no batch               (1, D)
        (B, D), (B, T, D)                                the same
        (T, B, D)                 time first             (B, T, D)
        (B, C, H, W)              images                 the same
        (B, C, L), (B, C, *)      1-d and 3-d conv       (B, positions, C)
        (B, *, D)                 of nn.Linear and kin   (B, positions, D)

    Args:
        module: the layer.
        h: its output.
        plain: the network is of a user's class, which gets the output unchanged, except that time is second.
        time_first: whether time is first in the output of a module without `batch_first`.
    """

    def __init__(self, module: nn.Module, h: Tensor, plain: bool = False, time_first: bool = False) -> None:
        self.shape = tuple(h.shape)
        if isinstance(module, nn.RNNBase):
            time_first = not module.batch_first
        self.transposed = time_first and h.ndim == 3
        self.channels = not plain and h.ndim >= 3 and isinstance(module, CHANNELS_FIRST)
        last = isinstance(module, FEATURES_LAST) or h.ndim > 4
        self.flat = not plain and h.ndim > 3 and last and not self.channels

    def to_network(self, h: Tensor) -> Tensor:
        """Return the layer's output, or a gradient at it, in the SG network's shape."""
        if h.ndim == 1:
            return h.unsqueeze(0)
        if self.transposed:
            return h.transpose(0, 1)
        if self.channels:
            return h.movedim(1, -1).flatten(1, -2)
        return h.flatten(1, -2) if self.flat else h

    def to_layer(self, gradient: Tensor) -> Tensor:
        """Return a gradient from the SG network in the shape of the layer's output."""
        if self.transposed:
            return gradient.transpose(0, 1)
        if self.channels:
            batch, channels, *positions = self.shape
            return gradient.reshape(batch, *positions, channels).movedim(-1, 1)
        return gradient.reshape(self.shape)
