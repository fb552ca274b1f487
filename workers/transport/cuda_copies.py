"""Copies between slots and a GPU, on a stream of their own beside the computation.

    compute stream   forward ──┬─ sg ─ backward ─ update ─ forward ...
    copy stream                └─ to the slot ─┐ event
    host             send returns at once ─────┴─ the packet is sent by the next ready, send or flush

On the CPU a copy is done when the call returns, and the packet is sent at once.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from dni_async.messages import Activation, Message, TargetGradient
from workers.transport.base import TransportTimeout


class Event(Protocol):
    """Tells whether a copy is done; a `torch.cuda.Event` is one."""

    def query(self) -> bool:
        """Whether the copy is done."""


CopyOut: TypeAlias = Callable[[Sequence[Tensor], Sequence[Tensor]], Event]
"""Copies tensors to places, as `copy_out`."""


class _Done:
    def query(self) -> bool:
        return True


DONE = _Done()
"""The event of a copy that is done."""


def wait_for(event: Event, timeout: float) -> None:
    """Wait until the copy is done. Raises TransportTimeout after `timeout` seconds, as a GPU may hang.

    (`torch.cuda.Event.synchronize` has no deadline.)
    """
    end = time.monotonic() + timeout
    while not event.query():
        if time.monotonic() > end:
            raise TransportTimeout(f"a copy between the GPU and the host was not done in {timeout:g} s")
        time.sleep(1e-5)


def copy_out(places: Sequence[Tensor], tensors: Sequence[Tensor]) -> Event:
    """Copy tensors, on any device, to places in host memory, which may be read once the event is done."""
    device = next((tensor.device for tensor in tensors if tensor.is_cuda), None)
    if device is None:
        for place, tensor in zip(places, tensors, strict=True):
            place.copy_(tensor)
        return DONE
    side = _side_stream(device)
    side.wait_stream(torch.cuda.current_stream(device))  # the tensors may not be computed yet
    with torch.cuda.stream(side):
        for place, tensor in zip(places, tensors, strict=True):
            place.copy_(tensor, non_blocking=True)
            if tensor.is_cuda:
                tensor.record_stream(side)  # its memory must not be used again before the copy
        return side.record_event()


def move(message: Message, device: torch.device) -> Event:
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


def _copies_on(tensors: list[Tensor], device: torch.device) -> tuple[list[Tensor], Event]:
    if device.type != "cuda":
        return [tensor.to(device) for tensor in tensors], DONE
    side, compute = _side_stream(device), torch.cuda.current_stream(device)
    with torch.cuda.stream(side):
        copies = [tensor.to(device, non_blocking=True) for tensor in tensors]
        event = side.record_event()
    compute.wait_event(event)
    for copy in copies:
        copy.record_stream(compute)  # it was allocated for the side stream
    return copies, event


@functools.cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)
