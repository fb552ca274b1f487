"""Copies between slots and a GPU, on streams of their own beside the computation: one for each direction.

    compute stream   forward ──┬─ sg ─ backward ─ update ─ forward ...
    stream "out"               └─ to the slot ─┐ event
    host             send returns at once ─────┴─ the packet is sent by the next ready, send, poke or flush

An input never waits for an output that is still being computed, as it would on a stream that both share. On
the CPU a copy is done when the call returns, and the packet is sent at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from dni_async.messages import Activation, Message, TargetGradient
from workers.runtime.accelerator import DONE, Accelerator, CopyEvent, Event
from workers.runtime.cuda import accelerator_of

CopyOut: TypeAlias = Callable[[Sequence[Tensor], Sequence[Tensor]], Event]
"""Copies tensors to places, as `copy_out`."""


def copy_out(
    places: Sequence[Tensor], tensors: Sequence[Tensor], accelerator: Accelerator | None = None
) -> Event:
    """Copy tensors, on any device, to places in host memory, which may be read once the event is done.

    accelerator: whose copies these are; None: of the device on which the tensors are.
    """
    accelerator = accelerator or _accelerator_of(tensors)
    if accelerator is None:
        for place, tensor in zip(places, tensors, strict=True):
            place.copy_(tensor)
        return DONE
    side = accelerator.stream("out")
    side.wait_event(accelerator.current_stream().record_event())  # the tensors may not be computed yet
    with accelerator.use(side):
        for place, tensor in zip(places, tensors, strict=True):
            if accelerator.holds(tensor):
                accelerator.copy(place, tensor)
                accelerator.record_use(tensor, side)  # its memory must not be used again before the copy
            else:
                place.copy_(tensor)
        return side.record_event()


def _accelerator_of(tensors: Sequence[Tensor]) -> Accelerator | None:
    for tensor in tensors:
        if tensor.is_cuda:
            return accelerator_of(tensor.device)
    return None


def move(message: Message, device: torch.device | Accelerator) -> Event:
    """Replace the message's tensors by copies on `device`; the originals may be overwritten after the event.

    What this thread computes on the device from now on waits for the copies.
    """
    if isinstance(message, Activation):
        tensors, event = _copies_on([message.h, message.y, *message.extras], device)
        message.h, message.y, *extras = tensors
        message.extras = tuple(extras)
    elif isinstance(message, TargetGradient):
        (message.grad,), event = _copies_on([message.grad], device)
    else:
        event = DONE
    return event


def _copies_on(tensors: list[Tensor], device: torch.device | Accelerator) -> tuple[list[Tensor], Event]:
    accelerator = device if isinstance(device, Accelerator) else accelerator_of(device)
    if accelerator is None:
        assert isinstance(device, torch.device)
        return [tensor.to(device) for tensor in tensors], DONE
    if all(accelerator.holds(tensor) for tensor in tensors):
        return tensors, DONE
    side, compute = accelerator.stream("in"), accelerator.current_stream()
    with accelerator.use(side):
        copies = [tensor if accelerator.holds(tensor) else accelerator.bring(tensor) for tensor in tensors]
        event = side.record_event()
    compute.wait_event(event)
    for copy, tensor in zip(copies, tensors, strict=True):
        if copy is not tensor:
            accelerator.record_use(copy, compute)  # it was allocated for the side stream
    return copies, CopyEvent(event, tensors)
