"""A GPU that is not there: streams do one piece of work whenever somebody looks, copies land late.

Its tensors are those of the CPU that `put` made, and layers compute at once. What goes wrong on a real GPU
goes wrong here: a place that is read before its copy landed has its old content, and a source that was freed
too early is copied as garbage.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from workers.runtime.accelerator import Accelerator

GARBAGE = 85
"""What the memory of a tensor that was freed holds, in every byte."""
Work = Callable[[], bool]
"""Does its work and returns True, or returns False if it has to wait."""


class FakeEvent:
    """A point in a stream. `reached`: by how much work all streams had done then."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.reached: int | None = None

    def query(self) -> bool:
        """Whether the work before it is done; the machine does some more first."""
        self._machine.advance()
        return self.reached is not None

    def elapsed_time(self, end_event: FakeEvent) -> float:
        """Pieces of work between both, as milliseconds."""
        assert self.reached is not None and end_event.reached is not None, "an event is not done"
        return float(end_event.reached - self.reached)


class FakeStream:
    """Work in order."""

    def __init__(self, machine: Machine, name: str) -> None:
        self.name, self.queue = name, deque[Work]()
        self._machine = machine
        machine.streams.append(self)

    def record_event(self) -> FakeEvent:
        """Return an event behind all work so far."""
        event = FakeEvent(self._machine)

        def reach() -> bool:
            event.reached = self._machine.done
            return True

        self.add(reach)
        return event

    def wait_event(self, event: Any) -> None:
        """Do later work only when the event is done."""
        self.add(lambda: event.reached is not None)

    def add(self, work: Work) -> None:
        """Append work."""
        with self._machine.lock:
            self.queue.append(work)


class ComputeStream(FakeStream):
    """The stream of layers, which compute at once: it has always done its work, and waits by itself."""

    @override
    def record_event(self) -> FakeEvent:
        event = FakeEvent(self._machine)
        event.reached = self._machine.done
        return event

    @override
    def wait_event(self, event: Any) -> None:
        self._machine.run_until(lambda: event.reached is not None)


class Machine:
    """The streams of one or more GPUs; `done` counts the pieces of work that they have done."""

    def __init__(self) -> None:
        self.streams: list[FakeStream] = []
        self.lock = threading.RLock()
        self.done = 0

    def advance(self) -> bool:
        """Do the next piece of work that need not wait; returns whether there was one."""
        with self.lock:
            for stream in self.streams:
                if stream.queue and stream.queue[0]():
                    stream.queue.popleft()
                    self.done += 1
                    self.streams.append(self.streams.pop(self.streams.index(stream)))  # the others come first
                    return True
            return False

    def run_until(self, done: Callable[[], bool]) -> None:
        """Do work until `done`. Fails if all streams wait for each other."""
        while not done():
            assert self.advance(), (
                f"deadlock: {[s.name for s in self.streams if s.queue]} wait for each other"
            )


class FakeGpu(Accelerator):
    """One GPU of a machine.

    Args:
        computes_at_once: whether its compute stream is a `ComputeStream`; otherwise work waits in it, too.
    """

    device = torch.device("cuda", 0)

    def __init__(self, machine: Machine | None = None, *, computes_at_once: bool = True) -> None:
        super().__init__()
        self.machine = machine or Machine()
        kind = ComputeStream if computes_at_once else FakeStream
        self.default = kind(self.machine, "compute")
        self.pins = True
        """Whether host memory can be pinned."""
        self.pinned: dict[int, int] = {}
        self.free = 1 << 30
        self._own: list[Any] = []
        self._thread = threading.local()
        self._made = 0

    def put(self, tensor: Tensor) -> Tensor:
        """Return the tensor, which is on the GPU from now on."""
        self._own.append(tensor.untyped_storage())
        return tensor

    @override
    def holds(self, tensor: Tensor) -> bool:
        address = tensor.untyped_storage().data_ptr()
        return any(address == own.data_ptr() for own in self._own)

    @override
    def new_stream(self) -> FakeStream:
        self._made += 1
        return FakeStream(self.machine, f"stream {self._made}")

    @override
    def current_stream(self) -> FakeStream:
        stream: FakeStream = getattr(self._thread, "stream", self.default)
        return stream

    @override
    def compute_stream(self) -> FakeStream:
        return self.default

    @contextlib.contextmanager
    @override
    def use(self, stream: Any) -> Iterator[None]:
        before = self.current_stream()
        self._thread.stream = stream
        try:
            yield
        finally:
            self._thread.stream = before

    @override
    def record_use(self, tensor: Tensor, stream: Any) -> None:
        kept = [tensor]
        stream.add(lambda: kept.clear() is None)

    @override
    def copy(self, place: Tensor, tensor: Tensor) -> None:
        self.current_stream().add(late_copy(place, tensor))

    @override
    def bring(self, tensor: Tensor) -> Tensor:
        there = self.put(torch.full_like(tensor, GARBAGE))
        self.current_stream().add(late_copy(there, tensor))
        return there

    @override
    def host_buffer(self, count: int) -> Tensor:
        return torch.zeros(count)

    @override
    def timer(self) -> FakeEvent:
        return self.current_stream().record_event()

    @override
    def enter_thread(self) -> None:
        pass

    @override
    def pin(self, address: int, size: int) -> bool:
        if self.pins:
            self.pinned[address] = size
        return self.pins

    @override
    def unpin(self, address: int) -> None:
        del self.pinned[address]

    @override
    def identity(self) -> str:
        return str(id(self))

    @override
    def free_bytes(self) -> int:
        return self.free

    @override
    def peak_bytes(self) -> int:
        return 0


def late_copy(place: Tensor, source: Tensor) -> Work:
    """Return the work of copying a tensor; it is garbage if nobody has kept it until then."""
    there = weakref.ref(source)

    def copy() -> bool:
        tensor = there()
        if tensor is None:
            place.view(torch.uint8).fill_(GARBAGE)
        else:
            place.copy_(tensor)
        return True

    return copy
