"""All that the workers ask of a device which computes in its own time: streams, events, copies, deadlines.

    host            forward, sg, backward, update: calls that return at once
    compute stream  ------ forward --+-- sg -- backward -- update --> ...            current_stream()
    stream "out"                     +-- activation to the host --+ event            stream("out")
    stream "in"     -- next input from the host --+ event         |                  stream("in")
                                     compute waits for it         the packet may leave

`workers.runtime.cuda` does it for a GPU. A process that computes on the CPU has
no accelerator.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor

from workers.transport.base import TransportTimeout

_POLL_INTERVAL_S = 1e-5


class Event(Protocol):
    """A point in a stream; a `torch.cuda.Event` is one."""

    def query(self) -> bool:
        """Whether all work before it is done."""


class TimedEvent(Event, Protocol):
    """An event that knows when it was reached."""

    def elapsed_time(self, end_event: Any) -> float:
        """Milliseconds from this event to a later one; both must be done."""


class Stream(Protocol):
    """Work that is done in order; a `torch.cuda.Stream` is one."""

    def record_event(self) -> Event:
        """Return an event behind all work so far."""

    def wait_event(self, event: Any) -> None:
        """Do later work only when the event is done; the host does not wait."""


class _Done:
    def query(self) -> bool:
        return True


DONE = _Done()
"""The event of work that is done."""


class CopyEvent:
    """The event of copies, which holds their sources until they are done: a device may still read them."""

    def __init__(self, event: Event, sources: Sequence[Tensor]) -> None:
        self._event, self._sources = event, tuple(sources)

    def query(self) -> bool:
        """Whether the copies are done."""
        if not self._event.query():
            return False
        self._sources = ()
        return True


def wait_for(event: Event, timeout: float, what: str = "a copy between the GPU and the host") -> None:
    """Wait until an event is done. Raises TransportTimeout after `timeout` seconds, as a GPU may hang.

    (`torch.cuda.Event.synchronize` has no deadline.)
    """
    end = time.monotonic() + timeout
    while not event.query():
        if time.monotonic() > end:
            raise TransportTimeout(f"{what} was not done in {timeout:g} s")
        time.sleep(_POLL_INTERVAL_S)


class Accelerator(ABC):
    """A device with streams. Tests have one that does its work late (tests/support/fake_gpu.py)."""

    device: torch.device

    def __init__(self) -> None:
        self._streams: dict[str, Stream] = {}

    def stream(self, name: str) -> Stream:
        """Return the stream of this name, which is made when it is first asked for."""
        if name not in self._streams:
            self._streams[name] = self.new_stream()
        return self._streams[name]

    def synchronize(self, timeout: float) -> None:
        """Wait until this thread's stream has done its work. Raises TransportTimeout."""
        wait_for(self.current_stream().record_event(), timeout, "the work of the GPU")

    @abstractmethod
    def holds(self, tensor: Tensor) -> bool:
        """Whether the tensor is on this device."""

    @abstractmethod
    def new_stream(self) -> Stream:
        """Return a stream whose work may overlap with that of all others."""

    @abstractmethod
    def current_stream(self) -> Stream:
        """Return the stream in which this thread's calls are done: by default the compute stream."""

    @abstractmethod
    def compute_stream(self) -> Stream:
        """Return the stream in which layers run."""

    @abstractmethod
    def use(self, stream: Stream) -> AbstractContextManager[object]:
        """Return a block in which this thread's calls are done in this stream."""

    @abstractmethod
    def record_use(self, tensor: Tensor, stream: Stream) -> None:
        """Keep the memory of a tensor of this device until this stream has done its work so far."""

    @abstractmethod
    def copy(self, place: Tensor, tensor: Tensor) -> None:
        """Copy a tensor to a place in the current stream; the host does not wait."""

    @abstractmethod
    def bring(self, tensor: Tensor) -> Tensor:
        """Return the tensor on this device, copied in the current stream; the host does not wait."""

    @abstractmethod
    def host_buffer(self, count: int) -> Tensor:
        """Return new memory of the host for so many floats, which the device copies to without a detour."""

    @abstractmethod
    def timer(self) -> TimedEvent:
        """Return an event in the current stream that knows when it is reached."""

    @abstractmethod
    def enter_thread(self) -> None:
        """Make this the device of a new thread, which would begin with the first one."""

    @abstractmethod
    def pin(self, address: int, size: int) -> bool:
        """Let the device copy from and to host memory without a detour; returns whether it can."""

    @abstractmethod
    def unpin(self, address: int) -> None:
        """Undo `pin`."""

    @abstractmethod
    def identity(self) -> str:
        """Return what tells this device from all others, also those that other processes see."""

    @abstractmethod
    def free_bytes(self) -> int:
        """Return the memory of the device that nobody uses."""

    @abstractmethod
    def peak_bytes(self) -> int:
        """Return the most memory of the device that this process has ever held in tensors."""
