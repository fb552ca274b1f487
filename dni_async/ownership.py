"""Tensors of a message are borrowed: the transport reuses their memory when the message has been handled.

A stage must not write into them, and copies what it keeps or sends on.
"""

from __future__ import annotations

from torch import Tensor, nn

from dni_async.messages import Activation, TargetGradient


def starts_in_place(layers: nn.Module) -> bool:
    """Whether the first operation of `layers`, not counting views, overwrites its input."""
    views = (nn.Flatten, nn.Unflatten, nn.Identity)
    leaves = (m for m in layers.modules() if not any(True for _ in m.children()))
    first = next((m for m in leaves if not isinstance(m, views)), None)
    return bool(getattr(first, "inplace", False))


def clone_if_borrowed(tensor: Tensor, message: Activation | TargetGradient) -> Tensor:
    """Return `tensor` (any shape), cloned if it lies in the borrowed memory of `message`."""
    if isinstance(message, TargetGradient):
        borrowed: tuple[Tensor, ...] = (message.grad,)
    else:
        borrowed = (message.h, message.y, *message.extras)
    addresses = [other.untyped_storage().data_ptr() for other in borrowed]
    return tensor.clone() if tensor.untyped_storage().data_ptr() in addresses else tensor
