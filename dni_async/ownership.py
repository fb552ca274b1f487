"""What a message lends: its tensors, whose memory the transport takes back when the message was handled.

Nobody writes into it, and what lives longer, also what is sent on, is copied.
"""

from __future__ import annotations

from torch import Tensor, nn

from dni_async.messages import Activation, TargetGradient


def starts_in_place(layers: nn.Module) -> bool:
    """Whether the first operation of `layers`, views aside, overwrites its input, which may be lent."""
    views = (nn.Flatten, nn.Unflatten, nn.Identity)
    leaves = (m for m in layers.modules() if not any(True for _ in m.children()))
    first = next((m for m in leaves if not isinstance(m, views)), None)
    return bool(getattr(first, "inplace", False))


def clone_if_borrowed(tensor: Tensor, message: Activation | TargetGradient) -> Tensor:
    """`tensor`, copied if it lies in the memory of `message`, which is only lent."""
    lent = (message.grad,) if isinstance(message, TargetGradient) else (message.h, message.y)
    addresses = [other.untyped_storage().data_ptr() for other in lent]
    return tensor.clone() if tensor.untyped_storage().data_ptr() in addresses else tensor
